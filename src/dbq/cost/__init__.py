"""What a network costs in hardware: the formulas, and their count on dense weights or on the planes of a trained network."""
