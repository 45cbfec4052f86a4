"""Weight quantizers: the branch quantizer DBQ and the uniform one, both inserted by torch's parametrization."""
