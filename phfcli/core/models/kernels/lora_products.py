"""A linear layer with an adapter as the products that it takes and nothing more: y = x W^T + b + s (x A^T) B^T.

PEFT's layer makes a scaled copy and a sum beside them, of the layer's width, in both directions; here the adapter's
products are added into the layer's own. Over a base in bfloat16 the adapter's weights and their gradients stay in
float32, and its products take bfloat16, as under autocast: PEFT's layer alone computes them in float32, for which GPUs
have a tenth of the rate, and keeps a float32 copy of x.

Shapes: N tokens, i inputs, o outputs, r rank.
"""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


def fuse_products(network: PeftModel) -> None:
    """From now on the network's adapted linear layers compute as this module does, where they are plain."""
    for module in network.modules():
        if type(module) is LoraLinear:
            module.__class__ = FusedLoraLinear


def only_products(layer: LoraLinear, adapter: str) -> bool:
    """Whether an adapter of a layer is nothing but its two matrices: no variant of LoRA, and no bias of their own."""
    sides = (layer.lora_A[adapter], layer.lora_B[adapter])
    return not layer.lora_variant and all(getattr(side, "bias", None) is None for side in sides)


class FusedLoraLinear(LoraLinear):
    """PEFT's layer, which stays what computes where there is more to it than the products."""

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
        """One adapter in use that is nothing but its two matrices, in the base's precision or in a higher one."""
        casting = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        if casting or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        [adapter] = self.active_adapters
        base, down, up = self.get_base_layer(), self.lora_A[adapter], self.lora_B[adapter]
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        dropout = not isinstance(self.lora_dropout[adapter], nn.Identity)
        own: torch.dtype = down.weight.dtype  # type: ignore[assignment]
        alike = x.dtype == base.weight.dtype and up.weight.dtype == own == torch.promote_types(x.dtype, own)
        return type(base) is nn.Linear and frozen and alike and only_products(self, adapter) and not dropout


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
