"""What a student learns from: its own averaged weights (`ema`), another model (`external`), a bridge to it.

A teacher reads a batch without a gradient and leaves a pass, as the student does. `contract` is what the loop asks.
"""
