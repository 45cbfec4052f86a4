"""When is a result still valid? As long as the digests of its settings, its data and the code that computes it are the same."""
