"""What the papers that PHF is compared with show of a model: `phf diagnose` gives it beside the flow.

`state_cosine` comes from saved flows. The others need the model, so they come with --collect: `outputs` compares both
readers' distributions, `lens` reads every block by the head, `attention_maps` says where two blocks attend, `gradients`
how hard each term of the loss pulls; `from_model` makes the passes, and `model_readings` are the records.
"""
