"""`phf doctor`: checks in minutes that a machine can train and evaluate.

It checks what is installed and connected, then runs real training steps with `phf` itself, in separate processes and in
a temporary folder that is removed afterwards.
"""
