"""The losses on a GPU against the CPU: value and gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from phfcli.core.losses.flow import flow_loss, flow_terms
from phfcli.core.losses.fused_divergence import fused_divergence

pytestmark = pytest.mark.gpu

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of the largest number


def near(found: Tensor, wanted: Tensor, error: float) -> None:
    scale = wanted.float().abs().max().item()
    torch.testing.assert_close(found.float().cpu(), wanted.float(), rtol=0, atol=error * scale)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(
    "options",
    [{"kind": "jsd", "clip": 0.05}, {"kind": "forward_kl"}, {"kind": "reverse_kl"}, {"kind": "jsd", "top_k": 50}],
    ids=str,
)
def test_the_divergence(cuda: torch.device, dtype: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    student, teacher, head = torch.randn(300, 64), torch.randn(300, 64), 0.3 * torch.randn(5000, 64)

    def on(device: torch.device) -> tuple[Tensor, Tensor]:
        hidden = student.to(device, dtype, copy=True).requires_grad_()
        weights = torch.ones(300, device=device)
        loss = fused_divergence(hidden, teacher.to(device, dtype), head.to(device, dtype), weights, **options)
        loss.backward()
        assert hidden.grad is not None
        return loss.detach(), hidden.grad

    for found, wanted in zip(on(cuda), on(torch.device("cpu")), strict=True):
        near(found, wanted, CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_the_flow(cuda: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 40, 32), torch.randn(4, 3, 40, 32)
    valid = torch.arange(40) < torch.tensor([40, 17, 1])[:, None]

    def on(device: torch.device) -> tuple[Tensor, Tensor]:
        states = student.to(device, dtype, copy=True).requires_grad_()
        loss = flow_loss(flow_terms(states, teacher.to(device, dtype), valid.to(device)))
        loss.backward()
        assert states.grad is not None
        return loss.detach(), states.grad

    for found, wanted in zip(on(cuda), on(torch.device("cpu")), strict=True):
        near(found, wanted, CLOSE[dtype])


def test_the_flash_kernel_of_torch(cuda: torch.device) -> None:
    """It is there for the precision of the recipe, and computes what the CPU computes."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, 256, 64) for _ in range(3))
    wanted = scaled_dot_product_attention(query, key, value, is_causal=True)
    halves = [x.to(cuda, torch.bfloat16) for x in (query, key, value)]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        near(scaled_dot_product_attention(*halves, is_causal=True), wanted, 2e-2)
