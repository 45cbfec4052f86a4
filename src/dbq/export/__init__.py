"""Trained networks as files: packed integers that replay without the training code, and an ONNX graph of the ternary convolutions."""
