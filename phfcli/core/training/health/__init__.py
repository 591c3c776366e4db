"""The health of a training run: what is measured of the policy beside its loss, and the alarms on it.

`token_metrics` sums what the pass over the vocabulary has read, `engine_gap` compares the engine with the trainer,
`rollout_metrics` looks at the completions, `slow_metrics` at what costs a pass; `alarms` judges all of them.
"""
