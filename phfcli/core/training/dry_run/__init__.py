"""What `phf train --dry-run` predicts: both prompts, and the memory of each phase of a step.

`plan` puts it together, `step_memory` counts a step phase by phase, and `pass_memory` runs the model on tensors that
have shapes and no data. No weight is loaded.
"""
