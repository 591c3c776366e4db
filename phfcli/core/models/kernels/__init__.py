"""How passes are computed where that is faster than transformers' own way: packed attention, an adapter's products.

Each is exact but for the order of sums, and steps back where a model does not fit it.
"""
