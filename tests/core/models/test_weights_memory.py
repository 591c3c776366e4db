"""The memory of a loaded base, by hand: views of its files, and copies."""

from pathlib import Path

import pytest
import torch
from families import family, write
from safetensors.torch import load_file, save_file

from phfcli.core.models.description import load_config, skeleton
from phfcli.core.models.weights import bytes_of, weights_memory


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
