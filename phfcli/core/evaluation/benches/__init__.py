"""Benchmarks: where their problems come from, and whether training data holds them."""
