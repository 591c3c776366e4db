"""Whether an adapter fits a model and is whole, told from its file."""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import build, family
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.adapters import check_adapter
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.runs.checkpoints import save_weights


@pytest.fixture
def adapter(random_model: Callable[..., LanguageModel], tmp_path: Path) -> tuple[Path, LanguageModel]:
    model = add_lora(random_model(), LoraSettings(r=4, alpha=8), seed=0)
    model.network.save_pretrained(str(tmp_path), save_embedding_layers=False)
    return tmp_path, model


def test_an_adapter_fits_its_own_base(adapter: tuple[Path, LanguageModel]) -> None:
    folder, model = adapter
    check_adapter(folder, model.description)


def test_another_width_is_refused_with_the_layer_and_the_fix(adapter: tuple[Path, LanguageModel]) -> None:
    folder, _ = adapter
    with pytest.raises(UserError, match=r"does not fit embedded: model\.layers\.0.*name the right model in base"):
        check_adapter(folder, load_description("embedded"))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"intermediate_size": 64}, {"num_key_value_heads": 4}])
def test_another_depth_or_inner_width_is_refused(
    adapter: tuple[Path, LanguageModel], random_model: Callable[..., LanguageModel], change: dict[str, int]
) -> None:
    folder, model = adapter
    other = replace(model.description, config=random_model(**change).causal.config)
    with pytest.raises(UserError, match="does not fit"):
        check_adapter(folder, other)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    base = load_model(ModelSettings(device="cpu"))
    save_weights(add_lora(base, LoraSettings(r=4), seed=0), tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_number_that_is_not_finite_is_named(saved: Path) -> None:
    check_adapter(saved, load_description("embedded"))
    edit(saved, lambda tensors: next(t for name, t in tensors.items() if "layers.2.mlp.up" in name)[0].fill_(torch.nan))
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.up_proj\.lora_A\.weight holds numbers that are not finite"):
        check_adapter(saved, load_description("embedded"))


def test_a_number_that_no_training_leads_to_is_named(saved: Path) -> None:
    edit(saved, lambda tensors: next(t for name, t in tensors.items() if "layers.2.mlp.up" in name)[0].fill_(3e38))
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.up_proj\.lora_A\.weight holds 3e\+38, which no training"):
        check_adapter(saved, load_description("embedded"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": 0}, "lora_alpha is 0, so its weights have no effect"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', and a number is wanted"),
        ({"lora_alpha": True}, "lora_alpha is True, and a number is wanted"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e.300, and a number is wanted"),
        ({"alpha_pattern": [1]}, "alpha_pattern: "),
        ({"r": 8}, "is of rank 4, and adapter_config.json beside it says 8"),
        ({"alpha_pattern": {"q_proj": 0}}, "q_proj is 0, so its weights have no effect"),
        ({"bias": "all"}, "bias is 'all', but the adapter's weights hold no bias"),
        ({"bias": "lora_only"}, "bias is 'lora_only', but the adapter's weights hold no bias"),
    ],
)
def test_settings_without_effect_are_refused(saved: Path, settings: dict[str, object], message: str) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(UserError, match=message):
        check_adapter(saved, load_description("embedded"))


def test_a_vector_is_no_adapter(saved: Path) -> None:
    edit(saved, lambda tensors: tensors.update({name: t[0].clone() for name, t in tensors.items() if "lora_A" in name}))
    with pytest.raises(UserError, match=r"lora_A\.weight is no matrix"):
        check_adapter(saved, load_description("embedded"))


def test_integers_are_no_adapter(saved: Path) -> None:
    edit(
        saved,
        lambda tensors: tensors.update({name: t.to(torch.int8) for name, t in tensors.items() if "lora_B" in name}),
    )
    with pytest.raises(UserError, match=r"lora_B\.weight holds int8, which no adapter is trained in"):
        check_adapter(saved, load_description("embedded"))


def test_a_tensor_that_is_missing_is_named(saved: Path) -> None:
    """PEFT would leave it at its random start."""
    name = "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight"
    edit(saved, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"has no weights for {re.escape(name)};"):
        load_model(ModelSettings(device="cpu"), saved)


def test_a_tensor_that_is_too_much_is_named(saved: Path) -> None:
    """PEFT would drop it."""
    edit(saved, lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}))
    with pytest.raises(UserError, match=r"lm_head"):
        load_model(ModelSettings(device="cpu"), saved)


def test_an_adapter_on_transposed_weights_fits() -> None:
    """GPT-2 keeps its weights as [in, out]."""
    causal = build(family("gpt2"))
    description = replace(load_description("embedded"), config=causal.config)
    model = add_lora(LanguageModel(causal, causal, description), LoraSettings(r=4), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(model, Path(folder))
        check_adapter(Path(folder), description)
