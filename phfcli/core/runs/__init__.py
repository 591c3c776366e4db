"""The run directory: its settings, manifest, checkpoints, hidden flows, and the problems that a run visits.

In come the parts of a training run; out come files that PEFT, vLLM and this program read back. Every file is written
whole or not at all. Which checkpoint a command means by its TARGET is decided in `checkpoint_choice` alone.
"""
