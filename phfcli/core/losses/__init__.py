"""The mathematics of the method: pure functions of tensors, with the gradient to the student only.

In come hidden states, logits or log-probabilities; out come losses and what their clips did. Everything is computed in
float32 (float64 for float64) on any device. No model, no config and no file may be imported here.
"""
