"""Studies: a YAML file of models, systems, rates and seeds in; finished runs, their records and a page out.

Each run is `phf train`, then `phf eval` of its checkpoints, in processes of their own. A finished run leaves a record,
one JSON file, from which alone the page is made: a checkout that has the records goes on where they end.
"""
