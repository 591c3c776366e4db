"""Faster forms of parts of a model, put in place of its code: adapter products, norms, and the MLP in tiles."""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from phfcli.core.models.architecture import find_blocks


def fuse_products(network: PeftModel) -> None:
    """Replaces the network's LoRA layers by `FusedLoraLinear`, which keeps less for the backward pass."""
    for module in network.modules():
        if type(module) is LoraLinear and _products_agree():
            module.__class__ = FusedLoraLinear


_LIMIT = 1e-5  # relative, of a trial in float32 between a fused form and the code that it replaces


@cache
def _products_agree() -> bool:
    """Whether `FusedLoraLinear` gives the output and the gradients of PEFT's own layer, tried once in a process."""
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.manual_seed(0)
        base = nn.Linear(12, 10).requires_grad_(False)
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False)
        layer = LoraLinear(base, "default", config, r=3, lora_alpha=5, init_lora_weights=False)
        x, weights = torch.randn(2, 7, 12).requires_grad_(), torch.randn(10)
        plain = _outcome(layer, x, weights)
        layer.__class__ = FusedLoraLinear
        fused = _outcome(layer, x, weights)
    return _agree(fused, plain)


def _outcome(module: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> list[Tensor]:
    """A module's output [..., o], and the gradients of a weighted sum of its sine for `x` and all that trains."""
    out = module(x)
    trained = [p for p in module.parameters() if p.requires_grad] if isinstance(module, nn.Module) else []
    return [out, *torch.autograd.grad((out.sin() * weights).sum(), [x, *trained])]


def _agree(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    pairs = zip(got, wanted, strict=True)
    return all(bool((one - other).norm() <= _LIMIT * other.norm()) for one, other in pairs)


def only_products(layer: LoraLinear, adapter: str) -> bool:
    """Whether a layer's adapter consists of its two matrices alone: no variant of LoRA, no bias."""
    sides = (layer.lora_A[adapter], layer.lora_B[adapter])
    return not layer.lora_variant and all(getattr(side, "bias", None) is None for side in sides)


class FusedLoraLinear(LoraLinear):
    """PEFT's layer, with the forward and backward pass of the plain case as one autograd function.

    Any other case (dropout, several adapters, quantised weights ...) runs PEFT's own code.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., i] -> [..., o]."""
        if args or kwargs or not self._is_plain(x):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        [adapter] = self.active_adapters
        base, down, up = self.get_base_layer(), self.lora_A[adapter], self.lora_B[adapter]
        flat = x.reshape(-1, x.shape[-1])
        scaling = float(self.scaling[adapter])
        fused: Tensor = _LoraProducts.apply(flat, base.weight, base.bias, down.weight, up.weight, scaling)  # type: ignore[no-untyped-call]
        return fused.view(*x.shape[:-1], fused.shape[-1])

    def _is_plain(self, x: Tensor) -> bool:
        """Whether one adapter of two matrices and nothing else is active, in the base's precision or a higher one."""
        casting = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        if casting or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        [adapter] = self.active_adapters
        base, down, up = self.get_base_layer(), self.lora_A[adapter], self.lora_B[adapter]
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        dropout = not isinstance(self.lora_dropout[adapter], nn.Identity)
        dtype: torch.dtype = down.weight.dtype  # type: ignore[assignment]
        same = x.dtype == base.weight.dtype and up.weight.dtype == dtype == torch.promote_types(x.dtype, dtype)
        return type(base) is nn.Linear and frozen and same and only_products(self, adapter) and not dropout


class _LoraProducts(torch.autograd.Function):
    """x [N, i], W [o, i], b [o], A [r, i], B [o, r] -> [N, o]; W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        inner_Nr = x @ A.to(x.dtype).T
        ctx.save_for_backward(x, W, A, B, inner_Nr)
        ctx.scaling = scaling
        return linear(x, W, bias).addmm_(inner_Nr, B.to(x.dtype).T, alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_No: Tensor) -> tuple[Tensor | None, ...]:
        x, W, A, B, inner_Nr = ctx.saved_tensors
        grad_Nr = (grad_No @ B.to(x.dtype)).mul_(ctx.scaling)
        grad_A = (grad_Nr.T @ x).to(A.dtype) if ctx.needs_input_grad[3] else None
        grad_B = (grad_No.T @ inner_Nr).to(B.dtype).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        grad_x = (grad_No @ W).addmm_(grad_Nr, A.to(x.dtype)) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_A, grad_B, None


_HALF = (torch.bfloat16, torch.float16)
_ROWS = 4096  # tokens whose states are in float32 at once in the backward pass
_tried: dict[tuple[type[nn.Module], int], bool] = {}


def fuse_norms(network: nn.Module) -> None:
    """Replaces the forward of the network's frozen RMS norms in half precision by `_RmsNorm`, which keeps less."""
    for module in network.modules():
        if _is_rms_norm(module):
            module.forward = partial(_norm, module)


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether `_RmsNorm` gives a module's output bitwise and its gradient; each class and width is tried once."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.dtype not in _HALF or not isinstance(eps, float):
        return False
    kind = type(module), len(weight)
    if kind not in _tried:
        _tried[kind] = _trial(module, weight, eps)
    return _tried[kind]


@torch.enable_grad()
def _trial(module: nn.Module, weight: Tensor, eps: float) -> bool:
    twin = copy.deepcopy(module).to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x, (scale, *_) = torch.randn(2, 3, len(weight), generator=generator).to(weight.dtype)
    twin.load_state_dict({"weight": scale}, strict=False)
    try:
        if not torch.equal(twin(x), _RmsNorm.apply(x, scale, eps)):  # type: ignore[no-untyped-call]
            return False
        # the gradient in float64 around float32, where roundings of half precision do not hide a difference
        twin, x, scale = twin.double(), x.double().requires_grad_(), scale.double()
        apply: Any = _RmsNorm.apply
        return _agree(_outcome(lambda x: apply(x, scale, eps), x, scale), _outcome(twin, x, scale))
    except (TypeError, ValueError, RuntimeError):  # another kind of norm
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


TILE = 1024  # tokens


def checkpoint_gradients(causal: PreTrainedModel) -> None:
    """Turns on gradient checkpointing, with the MLP of each block in tiles of TILE tokens.

    The inner activations of an MLP are the largest of a block; in tiles they exist for TILE tokens at a time.
    """
    causal.gradient_checkpointing_enable({"use_reentrant": False})
    for block in find_blocks(causal)[1]:
        mlp = getattr(block, "mlp", None)
        if isinstance(mlp, nn.Module) and not _has_experts(mlp):
            mlp.forward = partial(_in_tiles, mlp.forward)


def _has_experts(mlp: nn.Module) -> bool:
    """Whether an MLP routes tokens to experts: its router reports on the whole sequence, so it is not cut in tiles."""
    return any("expert" in name or "router" in name for name, _ in mlp.named_modules())


def _in_tiles(forward: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """[B, T, d] -> [B, T, d]."""
    tiles = hidden.split(TILE, dim=1)
    if len(tiles) == 1:
        return forward(hidden)
    if not torch.is_grad_enabled():
        return torch.cat([forward(tile) for tile in tiles], dim=1)
    return torch.cat([checkpoint(forward, tile, use_reentrant=False) for tile in tiles], dim=1)
