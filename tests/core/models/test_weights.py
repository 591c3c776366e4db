"""A folder whose files do not belong together is refused by the name of the tensor, and never filled up at random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family, write
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.loading import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(family("qwen3"), tmp_path / "model")


def load(folder: Path) -> Any:
    return load_model(ModelSettings(model=str(folder), device="cpu"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_whole_folder_is_loaded(folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    loaded = dict(load(folder).causal.named_parameters())
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(p, saved[name]) for name, p in loaded.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 6, "layer_types": None}, r"has no weights for model\.layers\.4\.\S+ and 21 more"),
        ({"num_hidden_layers": 3, "layer_types": None}, r"does not describe: model\.layers\.3\."),
        ({"intermediate_size": 64}, r"another shape .* for model\.layers\.0\.mlp\.down_proj\.weight"),
        ({"num_hidden_layers": 6}, r"num_hidden_layers.*layer_types"),
        ({"num_attention_heads": 0}, r"config\.json describes no model: ZeroDivisionError"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"model_type": "nothing"}, "nothing"),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop("lm_head.weight"), r"has no weights for lm_head\.weight;"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), r"does not describe: extra;"),
        (
            lambda t: t["model.layers.1.mlp.up_proj.weight"][3].fill_(torch.nan),
            r"layers\.1\.mlp\.up_proj\.weight holds",
        ),
        (
            lambda t: t["model.norm.weight"][0].fill_(-torch.inf),
            r"model\.norm\.weight holds numbers that are not finite",
        ),
    ],
)
def test_a_tensor_that_is_missing_too_much_or_not_finite_is_named(
    folder: Path, edit: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    edit_weights(folder, edit)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize("left", [4, 1000])
def test_a_truncated_file_is_one_line(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000] if left == 1000 else path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"its weights cannot be loaded from its folder: .*header"):
        load(folder)


def test_a_pickle_is_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"its weights are pickles \(\.bin\).*; only safetensors are"):
        load(folder)
