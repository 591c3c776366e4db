"""Training: the loop, what is refused before it starts, ranks, checkpoints on the way, and the dry run.

In come settings; out comes a run directory. `loop` reads like the algorithm of the paper; a stopped run that goes on
ends with bitwise the same weights.
"""
