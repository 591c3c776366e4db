"""The mathematics of the method: pure functions of tensors, with the gradient to the student only.

The functions take hidden states, logits or log-probabilities and return losses, with statistics of the clip where there
is one. Everything is computed in float32 (float64 for float64) on any device. No model, no config and no file may be
imported here.

    flow.py              the hidden-flow loss of PHF: direction, geometry and adjacent layers (eq. 4-13)
    divergence.py        the divergence of two next-token distributions (eq. 3), and the sampled-token reverse KL of OPD
    fused_divergence.py  the same divergence from hidden states, without the logits of all tokens in memory
    head.py              from the head's input to logits: product, bias, scale, soft cap
    pointwise.py         the state loss of OPRD and its bridge's projectors; the attention alignment of OISD
    policy_gradient.py   token log-probabilities, and the advantages and loss of GRPO
    positions.py         the selected positions of a completion, the weights of its tokens, and means over samples
"""
