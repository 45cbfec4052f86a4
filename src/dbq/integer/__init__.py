"""The integer engine: a quantized network as integer operations only, executed and held against the training graph."""
