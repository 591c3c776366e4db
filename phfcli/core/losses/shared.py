"""What the hidden-state losses share: their precision, the shapes they accept, the mean over samples.

Shapes: L layers, B samples, m selected positions, d hidden size.
"""

import torch
from torch import Tensor


def working(x: Tensor) -> Tensor:
    """The tensor in the precision of the mathematics: float64 stays, everything else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_states(student: Tensor, teacher: Tensor, valid: Tensor) -> None:
    """Raises ValueError unless both states are [L, B, m, d] with L >= 1 and `valid` is a bool [B, m]."""
    if student.ndim != 4 or student.shape != teacher.shape or len(student) == 0:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(
            f"student and teacher states must have one shape [layers, samples, positions, d]; got {shapes}"
        )
    if valid.dtype != torch.bool or valid.shape != student.shape[1:3]:
        want = tuple(student.shape[1:3])
        raise ValueError(f"valid must be bool of shape {want}; got {valid.dtype} of shape {tuple(valid.shape)}")


def mean_over_samples(per_sample: Tensor, counted: Tensor) -> Tensor:
    """[..., B] -> [...]: the mean over the samples that `counted` [B] marks; zero, still with a gradient, if none."""
    return per_sample.masked_fill(~counted, 0).sum(-1) / counted.sum().clamp(min=1)
