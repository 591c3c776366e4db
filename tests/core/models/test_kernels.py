"""Functions of our own in the place of a model's: norms, adapters' products, MLPs in tiles."""

from collections.abc import Callable

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from phfcli.core.config import LoraSettings
from phfcli.core.models import kernels as rms_norms
from phfcli.core.models.kernels import TILE, FusedLoraLinear, checkpoint_gradients, fuse_norms
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import add_lora
from phfcli.core.training.pass_memory import Allocations

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


LENGTH = TILE + 30


def gradients(model: LanguageModel, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.network.train()
    out = model.backbone(input_ids=ids).last_hidden_state
    out.square().sum().backward()
    taken = {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}
    model.network.zero_grad()
    return out.detach(), taken


def adapted(random_model: Callable[..., LanguageModel], **sizes: int) -> LanguageModel:
    model = add_lora(random_model(max_position_embeddings=4 * TILE, **sizes), LoraSettings(r=4, alpha=8), seed=1)
    with torch.no_grad():
        for p in model.trainable().values():
            p.copy_(0.1 * torch.randn_like(p))
    return model


def test_values_and_gradients_are_the_same(random_model: Callable[..., LanguageModel]) -> None:
    model = adapted(random_model)
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH) % len(model.output_head)
    out, before = gradients(model, ids)
    checkpoint_gradients(model.causal)
    again, after = gradients(model, ids)
    torch.testing.assert_close(again, out, rtol=1e-9, atol=1e-9)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-7, atol=1e-9)


def test_a_short_sequence_is_computed_as_before_to_the_bit(random_model: Callable[..., LanguageModel]) -> None:
    model = adapted(random_model)
    ids = torch.arange(40)[None] % len(model.output_head)
    out, before = gradients(model, ids)
    checkpoint_gradients(model.causal)
    again, after = gradients(model, ids)
    assert torch.equal(again, out)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


@pytest.mark.slow
def test_the_mlp_of_a_long_sequence_is_never_held_whole(random_model: Callable[..., LanguageModel]) -> None:
    """With an MLP of 40 times the model's width, what a whole sequence makes of it would be most of the memory."""
    model = adapted(random_model, intermediate_size=40 * 32)
    ids = torch.arange(4 * TILE - 1)[None] % len(model.output_head)
    checkpoint_gradients(model.causal)
    model.network.train()
    with Allocations() as step:
        model.backbone(input_ids=ids).last_hidden_state.sum().backward()
    one = ids.numel() * 40 * 32 * 8  # bytes: gate, up, or their product, of the whole sequence
    assert step.peak < 2.5 * one


TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def layers(model: LanguageModel) -> list[FusedLoraLinear]:
    return [module for module in model.network.modules() if isinstance(module, FusedLoraLinear)]


def of_product(layer: LoraLinear, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    inputs = x.clone().requires_grad_()
    out = layer(inputs)
    out.sin().sum().backward()
    grads = [p.grad for p in layer.parameters() if p.requires_grad]
    return [out, inputs.grad, *grads]  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_pefts(student: LanguageModel, dtype: torch.dtype) -> None:
    student.network.to(dtype)
    assert len(layers(student)) == 7 * len(student.blocks)
    for layer in layers(student)[:7]:
        x = torch.randn(2, 5, layer.in_features, dtype=dtype)
        ours = of_product(layer, x)
        layer.__class__ = LoraLinear
        for a, b in zip(ours, of_product(layer, x), strict=True):
            assert a.shape == b.shape
            assert (a - b).norm() <= TOLERANCE[dtype] * b.norm()


def test_without_its_adapter_it_is_the_layer_below(student: LanguageModel) -> None:
    layer = layers(student)[0]
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    with student.network.disable_adapter():
        assert torch.equal(layer(x), layer.get_base_layer()(x))
    assert not torch.equal(layer(x), layer.get_base_layer()(x))


def test_over_a_base_in_bfloat16_products_take_bfloat16_and_gradients_are_float32(student: LanguageModel) -> None:
    student.network.float()
    for layer in layers(student)[:7]:
        layer.get_base_layer().to(torch.bfloat16)
        x = torch.randn(64, layer.in_features).bfloat16()
        ours = of_product(layer, x)
        layer.__class__ = LoraLinear
        for a, b in zip(ours, of_product(layer, x), strict=True):
            assert a.dtype == b.dtype
            assert (a - b).float().norm() <= 2**-7 * b.float().norm()


def test_nothing_of_the_tokens_is_kept_in_the_higher_precision(student: LanguageModel) -> None:
    student.network.float()
    layer = layers(student)[0]
    layer.get_base_layer().to(torch.bfloat16)
    x = torch.randn(64, layer.in_features).bfloat16().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        layer(x)
    of_tokens = [one for one in kept if len(one) == len(x)]
    assert {one.dtype for one in of_tokens} == {torch.bfloat16}
    assert sorted(one.shape[1] for one in of_tokens) == sorted([layer.in_features, layer.r["default"]])
    assert any(one.data_ptr() == x.data_ptr() for one in of_tokens)


def test_a_base_of_higher_precision_is_left_to_peft(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layers(student)[0]
    layer.lora_A.bfloat16()
    layer.lora_B.bfloat16()
    called: list[Tensor] = []
    monkeypatch.setattr(LoraLinear, "forward", lambda _self, x: called.append(x) or x)
    layer(torch.randn(3, layer.in_features, dtype=torch.float64))
    assert len(called) == 1
