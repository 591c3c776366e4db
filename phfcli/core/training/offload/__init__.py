"""What waits in the machine's memory while the GPU has no use for it: activations, and AdamW's moments.

In come tensors, out come the same numbers: nothing of it changes a result. The teacher's weights wait by themselves.
"""
