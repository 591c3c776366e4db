"""A base that is quantised for training: two steps, a resumed run, and evaluations that know its form."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Done
from families import family, write

from phfcli.core.storage.tensors import read_tensors

Phf = Callable[..., Done]
TINY = ("--set", "rollout.max_new_tokens=8", "--set", "batch_size=2", "--set", "lora.r=4", "--set", "device=cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_quantised_base_trains_resumes_and_is_evaluated(name: str, phf: Phf, tmp_path: Path) -> None:
    base = write(family("qwen3"), tmp_path / "base", hidden_size=64, intermediate_size=128)  # whole blocks of 64
    options = ("--model", base, "--data", "embedded", "--set", f"quantization={name}", *TINY)
    assert phf("train", *options, "--steps", 2, "--output-dir", "whole", "--quiet").code == 0
    assert phf("train", *options, "--steps", 1, "--output-dir", "parts", "--quiet").code == 0
    assert phf("train", *options, "--steps", 2, "--output-dir", "parts", "--quiet", "--resume").code == 0
    files = [tmp_path / run / "checkpoints/step-000002/adapter_model.safetensors" for run in ("whole", "parts")]
    whole, parts = map(read_tensors, files)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert all(tensor.any() for key, tensor in whole.items() if "lora_B" in key)  # every module has learned

    evaluation = ("eval", "whole", "--limit", 2, "--n", 1, "--max-new-tokens", 8, "--engine", "transformers")
    plain = phf(*evaluation)
    assert plain.code == 0
    assert f"was trained with its base in {name} and is evaluated with it unquantized" in plain.err
    mixed = phf(*evaluation, "--set", f"quantization={name}")
    assert mixed.code == 2
    assert f"was sampled with quantization 'none', now it is '{name}'" in mixed.err
    as_trained = phf(*evaluation, "--set", f"quantization={name}", "--output-dir", "other")
    assert as_trained.code == 0
    assert "was trained over" not in as_trained.err
