"""The head of a language model: from its input to logits, with bias, scale and soft cap.

    u = W h + b        products [n, V]
    v = scale u        Granite divides by a constant, Cohere multiplies by one
    z = c tanh(v / c)  logits; Gemma's soft cap c, or z = v without one

Shapes: n tokens, d hidden size, V vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.losses.positions import working


@dataclass(frozen=True)
class Head:
    """A linear head with an optional bias, scale and soft cap.

    Attributes:
        weight: [V, d].
        bias: [V], or None.
        scale: multiplies the products.
        soft_cap: the bound c that absolute logits approach, or None.

    Raises:
        ValueError: a bias that does not fit the weight, or a soft cap that is not positive.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            shapes = f"{tuple(self.bias.shape)} and {tuple(self.weight.shape)}"
            raise ValueError(f"a head's bias must be [V] and its weight [V, d]; got {shapes}")
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"a head's soft cap must be positive, or None; got {self.soft_cap}")

    def __len__(self) -> int:
        """The size of the vocabulary."""
        return len(self.weight)

    @property
    def plain(self) -> bool:
        """Whether the products are the logits: no bias, no scale, no soft cap."""
        return self.bias is None and self.scale == 1 and self.soft_cap is None

    @property
    def requires_grad(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> logits [..., V], without chunks."""
        return self.finish(hidden.to(self.weight.dtype) @ self.weight.T)

    def finish(self, products: Tensor) -> Tensor:
        """Products W h [n, V] -> logits [n, V], in the working precision; a plain head returns its input."""
        if self.plain:
            return products
        logits = working(products)
        if self.bias is not None:
            logits = logits + working(self.bias)
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def to_products(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """A gradient to the logits -> the gradient to the products; both [n, k], of the same entries."""
        if self.soft_cap is not None:
            gradient = gradient * (1 - (logits / self.soft_cap).square())
        return gradient if self.scale == 1 else gradient * self.scale

    def first(self, size: int) -> "Head":
        """The head of the first `size` entries of the vocabulary."""
        return replace(self, weight=self.weight[:size], bias=None if self.bias is None else self.bias[:size])

    def detach(self) -> "Head":
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def clone(self) -> "Head":
        return replace(self, weight=self.weight.clone(), bias=None if self.bias is None else self.bias.clone())

    def to(self, dtype: torch.dtype) -> "Head":
        """The head whose products are computed in that precision."""
        return replace(self, weight=self.weight.to(dtype))


def as_head(head: Tensor | Head) -> Head:
    """Turns a bare weight [V, d] into a plain head; a Head stays."""
    return head if isinstance(head, Head) else Head(head)
