"""The check before step 1: what would be lost at the end of a run is found, and nothing is disturbed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, family
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import add_lora, check_round_trip

IDS = [5, 9, 40, 3, 77, 12]


def adapted(kind: str) -> LanguageModel:
    causal = build(family(kind))
    return add_lora(LanguageModel(causal, causal, load_description("embedded")), LoraSettings(r=4, alpha=8), seed=0)


@pytest.mark.parametrize("kind", ["qwen3", "phi3", "gpt2", "qwen3_moe", "lfm2", "gemma3"])
def test_a_good_adapter_passes_and_nothing_is_disturbed(kind: str) -> None:
    model = adapted(kind)
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    trainable, state, mode = list(model.trainable()), torch.get_rng_state(), model.network.training
    check_round_trip(model, IDS)
    after = dict(model.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(p, after[name]) and after[name].grad is None for name, p in before.items())
    assert list(model.trainable()) == trainable
    assert torch.equal(torch.get_rng_state(), state)
    assert model.network.training == mode


class Deaf(Qwen3MLP):
    """Reads the weight of one of its layers instead of calling it."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.up_proj
        up = layer(x) * 0 + torch.nn.functional.linear(x, layer.weight)
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * up)
        return out


def test_a_module_without_a_gradient_is_found() -> None:
    causal: Any = build(family("qwen3"))
    causal.model.layers[2].mlp.__class__ = Deaf
    model = LanguageModel(causal, causal, load_description("embedded"))
    model = add_lora(model, LoraSettings(r=4), seed=0)
    with pytest.raises(UserError, match=r"lora: model\.layers\.2\.mlp\.up_proj gets no gradient"):
        check_round_trip(model, IDS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(next(k for k in tensors if "layers.1.self_attn.v_proj.lora_B" in k)), "v_proj"),
        (lambda tensors: next(v for k, v in tensors.items() if "layers.3" in k).mul_(1.1), r"layers\.3"),
    ],
)
def test_what_a_file_loses_is_found(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    model = adapted("qwen3")
    save = model.network.save_pretrained

    def damaged(folder: str, **options: Any) -> None:
        save(folder, **options)
        path = Path(folder) / "adapter_model.safetensors"
        tensors = load_file(path)
        damage(tensors)
        save_file(tensors, path)

    monkeypatch.setattr(model.network, "save_pretrained", damaged)
    with pytest.raises(UserError, match=rf"lora: .*{message}.* is lost when the adapter is saved"):
        check_round_trip(model, IDS)
    assert list(model.network.peft_config) == ["default"]
