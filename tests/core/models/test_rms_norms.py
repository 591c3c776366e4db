"""Norms in half precision, beside the models' own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from phfcli.core.config import LoraSettings
from phfcli.core.models import kernels as rms_norms
from phfcli.core.models.kernels import fuse_norms
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import add_lora

WIDTH = 48


def frozen(norm: nn.Module, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)  # type: ignore[arg-type]
    return norm.to(dtype).requires_grad_(False)


def outcome(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    inputs = x.clone().requires_grad_()
    out = norm(inputs.transpose(1, 2))
    (out.transpose(1, 2).float() * torch.linspace(-1, 1, WIDTH)).sin().sum().backward()
    assert inputs.grad is not None
    return out, inputs.grad


@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_the_models_own_and_gradients_as_exact(
    kind: Callable[..., nn.Module], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rms_norms, "_ROWS", 4)
    norm = frozen(kind(WIDTH, eps=1e-5), dtype)
    x = torch.randn(2, 3, 5, WIDTH).to(dtype)
    wanted, wanted_grad = outcome(norm, x)
    exact = frozen(kind(WIDTH, eps=1e-5), torch.float32)
    exact.load_state_dict(norm.state_dict())
    fuse_norms(nn.ModuleList([norm]))
    assert "forward" in vars(norm)
    ours, our_grad = outcome(norm, x)
    assert torch.equal(ours, wanted)
    _, exact_grad = outcome(exact, x.float())
    errors = [(grad.float() - exact_grad).norm() for grad in (our_grad, wanted_grad)]
    assert errors[0] <= 1.1 * errors[1]


def test_only_half_precision_and_this_kind_of_norm_are_replaced() -> None:
    others = [
        frozen(LlamaRMSNorm(WIDTH), torch.float32),
        frozen(GemmaRMSNorm(WIDTH), torch.bfloat16),
        nn.LayerNorm(WIDTH).bfloat16(),
        nn.Linear(3, 2).bfloat16(),
    ]
    fuse_norms(nn.ModuleList(others))
    assert not any("forward" in vars(module) for module in others)


def test_a_norm_that_trains_is_the_models_own() -> None:
    norm = frozen(LlamaRMSNorm(WIDTH), torch.bfloat16)
    fuse_norms(nn.ModuleList([norm]))
    norm.requires_grad_()
    norm(torch.randn(2, WIDTH).bfloat16()).sum().backward()
    assert norm.weight.grad is not None  # type: ignore[union-attr]


def test_an_adapted_model_in_half_precision_keeps_no_float32_copy(random_model: Callable[..., LanguageModel]) -> None:
    model = random_model()
    model.causal.bfloat16()
    model = add_lora(model, LoraSettings(r=4), seed=0)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        model.backbone(input_ids=torch.arange(20)[None])
    assert [one.shape for one in kept if one.dtype == torch.float32 and one.numel() >= 20 * 32] == []
