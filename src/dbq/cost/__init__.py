"""The four hardware costs: formulas, and their count on the planes of a trained network."""
