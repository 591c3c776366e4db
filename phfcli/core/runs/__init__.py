"""The run directory: its settings, manifest, checkpoints, hidden flows, and the problems that a run visits.

This room writes the parts of a training run as files that PEFT, vLLM and this program can read, and reads them back.
Every file is written atomically. `targets` alone decides which checkpoint a command means by its TARGET.
"""
