"""Weights as they are read: whole and right or refused, their memory, and quantised ones."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, family, write
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_config, skeleton
from phfcli.core.models.loading import load_model
from phfcli.core.models.weights import bytes_of, quantized_loading, weights_memory
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import check_base


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


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_pass_in_training_is_the_pass_that_draws(kind: str, attention: str, tmp_path: Path) -> None:
    """GPT-2 and OPT come with a dropout of 0.1, in modules and in the functions that compute attention."""
    ids = torch.arange(1, 9)[None]
    if kind != "qwen3":
        noisy = build(family(kind)).train()
        assert not torch.equal(noisy(input_ids=ids).logits, noisy(input_ids=ids).logits)
    base = write(family(kind), tmp_path)
    model = load_model(ModelSettings(model=str(base), device="cpu", attention=attention)).causal  # type: ignore[arg-type]
    drawn = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(model.train()(input_ids=ids).logits, drawn, rtol=1e-6, atol=1e-6)


def planned(folder: Path, dtype: torch.dtype = torch.float32, quantization: str = "none", mapped: bool = True) -> int:
    return weights_memory(str(folder), skeleton(load_config(str(folder)), dtype), dtype, quantization, mapped=mapped)


def file_size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_weights_that_are_views_of_a_file_take_the_file(tmp_path: Path) -> None:
    base = write(family("qwen3"), tmp_path)
    assert planned(base) == file_size(base)
    assert planned(base, mapped=False) == bytes_of(skeleton(load_config(str(base))))


def test_weights_of_another_precision_are_copies_alone(tmp_path: Path) -> None:
    base = write(family("qwen3"), tmp_path)
    assert planned(base, torch.bfloat16) == bytes_of(skeleton(load_config(str(base)), torch.bfloat16))


def test_experts_that_are_put_together_stand_beside_their_file(tmp_path: Path) -> None:
    base = write(family("qwen3_moe"), tmp_path)
    causal = skeleton(load_config(str(base)))
    experts = sum(p.numel() * p.itemsize for name, p in causal.named_parameters() if ".experts." in name)
    assert planned(base) == file_size(base) + experts


def test_a_file_without_a_view_is_not_counted(tmp_path: Path) -> None:
    base = write(family("qwen3"), tmp_path)
    tensors = load_file(base / "model.safetensors")
    head = {"lm_head.weight": tensors.pop("lm_head.weight").half()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    save_file(head, base / "head.safetensors", {"format": "pt"})
    assert planned(base) == file_size(base) + 2 * head["lm_head.weight"].nbytes


@pytest.mark.parametrize(("name", "bits"), [("nf4", 4.127), ("int8", 8.0)])
def test_quantised_weights_are_counted_by_their_bits(name: str, bits: float, tmp_path: Path) -> None:
    base = write(family("llama"), tmp_path)
    blocks = {key: p for key, p in skeleton(load_config(str(base))).named_parameters() if key.endswith("_proj.weight")}
    numbers = sum(p.numel() for p in blocks.values())
    saved = planned(base, mapped=False) - planned(base, quantization=name, mapped=False)
    assert saved == pytest.approx(numbers * (4 - bits / 8), abs=len(blocks))
    copies = planned(base, quantization=name) - file_size(base)  # on a CPU the file stays for the sake of the others
    assert copies == pytest.approx(numbers * bits / 8, abs=len(blocks))


EMBEDDED = load_config("embedded")


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_without_bitsandbytes_it_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what an import finds where it is not installed
    with pytest.raises(UserError, match=f"^quantization: {name} needs bitsandbytes, which is not installed"):
        load_model(ModelSettings(quantization=name, device="cpu"))


def test_nothing_is_asked_for_a_plain_base() -> None:
    assert quantized_loading("none", torch.float32, torch.device("cpu")) == {}


@pytest.mark.parametrize("other", ["tuning=full", "sharding=fsdp", "rollout.engine=vllm"])
def test_what_does_not_go_with_it_is_refused(other: str) -> None:
    with pytest.raises(UserError, match=r"^quantization: nf4 "):
        check_base(resolve_train(set_sources(["quantization=nf4", other])), EMBEDDED)
    check_base(resolve_train(set_sources([other])), EMBEDDED)
    check_base(resolve_train(set_sources(["quantization=nf4"])), EMBEDDED)


def test_a_model_that_comes_quantised_does_not_train_as_a_whole(tmp_path: Path) -> None:
    arch = load_config(str(write(family("qwen3"), tmp_path)))
    arch.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(UserError, match=r"^quantization: bitsandbytes needs a frozen base"):
        check_base(resolve_train(set_sources(["tuning=full"])), arch)


def test_four_bits_let_gradients_through_after_a_pass_without(tmp_path: Path) -> None:
    """bitsandbytes packs the weights for a CPU's inference, and a packed product has no gradient."""
    base = write(family("qwen3"), tmp_path, hidden_size=64, intermediate_size=128)  # whole blocks of 64 numbers
    model = load_model(ModelSettings(model=str(base), quantization="nf4", device="cpu"))
    ids = torch.arange(5)[None]
    with torch.no_grad():
        model.causal(input_ids=ids)
    embedded = model.causal.get_input_embeddings()(ids).detach().requires_grad_()
    hidden = model.causal(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    [gradient] = torch.autograd.grad(hidden[1].sum() - hidden[0].sum(), embedded)  # of what one block adds
    assert gradient.abs().max() > 0
