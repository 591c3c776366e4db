"""RMS norms in half precision that keep no float32 copy of their input: y = w (x / sqrt(mean x^2 + eps)).

Models compute them in float32, and autograd keeps that copy, twice the size of the input, for each of them. Here the
input itself is kept, and the copy made again in the backward pass, for some rows at a time. A class of norms is found
by a trial: both must give the same numbers, to the bit.

Shapes: N rows, d width.
"""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_HALF = (torch.bfloat16, torch.float16)
_ROWS = 4096  # that stand in float32 at once in the backward pass
_known: dict[tuple[type[nn.Module], int], bool] = {}


def fuse_norms(network: nn.Module) -> None:
    """From now on the network's frozen norms in half precision compute as this module does."""
    for module in network.modules():
        if _is_rms_norm(module):
            module.forward = partial(_norm, module)


def _is_rms_norm(module: nn.Module) -> bool:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.dtype not in _HALF or not isinstance(eps, float):
        return False
    kind = type(module), len(weight)
    if kind not in _known:
        _known[kind] = _trial(module, weight, eps)
    return _known[kind]


@torch.no_grad()
def _trial(module: nn.Module, weight: Tensor, eps: float) -> bool:
    twin = copy.deepcopy(module).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    x, own = torch.randn(2, 3, len(weight), generator=generator).to(weight.dtype)
    twin.load_state_dict({"weight": own[0]}, strict=False)
    try:
        return torch.equal(twin(x), _RmsNorm.apply(x, own[0], eps))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RuntimeError):  # a norm of something else
        return False


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    """[..., d] -> [..., d]."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if x.dtype != weight.dtype or weight.requires_grad:
        out: Tensor = type(module).forward(module, x)
        return out
    normed: Tensor = _RmsNorm.apply(x, weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    """x [..., d] in half precision, w [d] -> [..., d]; w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)  # [..., 1]
        ctx.save_for_backward(x, weight, scale)
        return weight * exact.mul_(scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        out = grad.new_empty(grad.shape)  # contiguous, so that its rows are views of it
        width = x.shape[-1]
        rows = (part.reshape(-1, part.shape[-1]).split(_ROWS) for part in (x, scale, grad, out))
        for x_Nd, scale_N1, grad_Nd, out_Nd in zip(*rows, strict=True):
            normed_Nd = x_Nd.float().mul_(scale_N1)
            slope_Nd = (grad_Nd * weight).float()
            along_N1 = (slope_Nd * normed_Nd).sum(-1, keepdim=True) / width
            out_Nd.copy_(slope_Nd.sub_(normed_Nd.mul_(along_N1)).mul_(scale_N1))
        return out, None, None
