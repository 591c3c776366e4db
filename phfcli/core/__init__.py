"""The rooms (packages) of phfcli, which import only rooms below them; docs/architecture.md is the map.

From top to bottom: studies and doctor, reporting, analysis, training, evaluation, runs, objectives, rollouts, models,
losses and grading, storage. The modules of this folder itself are below all rooms, and load no torch.
"""
