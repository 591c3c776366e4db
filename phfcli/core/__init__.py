"""The rooms of phfcli. Imports only go towards the ground; docs/architecture.md is the map.

From the top: reporting, analysis, training, evaluation, runs, objectives, rollouts, models, losses and grading, and
storage. On the ground lie the modules of this folder itself, which load no torch: settings, names, errors, seeds.
"""
