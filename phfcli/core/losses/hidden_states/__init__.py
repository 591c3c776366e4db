"""Losses on hidden states and attention, and what is measured of a flow.

`flow` holds the transitions and the terms of PHF (eqs. 4 to 13), `pointwise` the matching of OPRD, `attention` that of
OISD, `projectors` the bridge between two models; `layer_energy` and `rollout_measures` serve the diagnosis.
"""
