"""What the papers that PHF is compared with show of a model: `phf diagnose` gives it beside the flow.

`state_cosine` comes from saved flows.
"""
