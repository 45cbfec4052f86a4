"""Inserts quantizers into a network: for weights by the layer policy, for activations by the traced graph."""
