"""What params.yaml may say, and what it means for one training."""
