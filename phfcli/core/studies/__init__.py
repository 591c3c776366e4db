"""Studies: many runs of models, systems, learning rates and seeds from one YAML file, and a page of their results.

Each run is a `phf train` and then a `phf eval` of its checkpoints, each in its own process. A finished run leaves a
record, one JSON file. The page is made from the records alone, so a checkout with the records can continue the study.
"""
