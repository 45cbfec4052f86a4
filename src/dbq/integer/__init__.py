"""The integer engine: a quantized network becomes a program of integer operations, which is run and compared with the training graph."""
