"""An adapted layer's products, beside PEFT's own."""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from phfcli.core.models.kernels import FusedLoraLinear
from phfcli.core.models.language_model import LanguageModel

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def layers(model: LanguageModel) -> list[FusedLoraLinear]:
    return [module for module in model.network.modules() if isinstance(module, FusedLoraLinear)]


def outcome(layer: LoraLinear, x: Tensor) -> list[Tensor]:
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
        ours = outcome(layer, x)
        layer.__class__ = LoraLinear
        for a, b in zip(ours, outcome(layer, x), strict=True):
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
        ours = outcome(layer, x)
        layer.__class__ = LoraLinear
        for a, b in zip(ours, outcome(layer, x), strict=True):
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
