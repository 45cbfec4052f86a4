"""DBQ: a differentiable branch quantizer, and the re-runnable evidence for it."""

__version__ = "0.1.0"
