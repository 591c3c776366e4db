"""Divergences of two next-token distributions (PHF paper, eq. 3): plain, and straight from hidden states.

`plain` is the definition; `fused` gives the same value and gradient without ever holding the logits of all tokens, by
way of `chunked`; both take their formulas from `vocabulary_terms`. `sampled_token` needs the sampled token alone.
"""
