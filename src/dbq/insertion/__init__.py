"""Quantizers put into a network: weights by layer policy, activations by the traced graph."""
