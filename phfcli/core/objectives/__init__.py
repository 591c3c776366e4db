"""Objectives: each a small class that says what it needs and returns the terms of its loss.

In come the passes of student and teacher over a batch; out come SUMS, each with the name of the count that divides it.
The loop divides by the count of the whole batch, so micro-batches and ranks do not change a loss. `build` knows them by
name; the loop never asks which one it runs.
"""
