"""LoRA adapters of a model: which modules they sit on, in memory, in files, and checked before a run.

`targets` finds the linear layers of the decoder blocks, `lora` puts an adapter on them or folds one into the weights,
`files` judges saved ones before a weight is loaded, and `round_trip` shows that what trains is what a reader gets back.
"""
