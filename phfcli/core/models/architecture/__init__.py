"""What a model is made of, found in the model itself: its decoder blocks, its head, and what its config says of them.

`blocks` finds the list of blocks, `output_head` the head with whatever follows its product, and `self_check` compares
both with what the model itself computes, so that an architecture which no list knows is refused before it trains.
"""
