"""Tensors on disk: what is written is read, by us and by safetensors itself."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from phfcli.core.storage.tensors import read_tensors, write_tensors

TENSORS = {
    "weights": torch.randn(5, 3).to(torch.bfloat16),
    "transposed": torch.randn(4, 6).T,
    "steps": torch.tensor(7),
    "ratio": torch.tensor(0.5, dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "ids": torch.arange(6, dtype=torch.int32),
    "half": torch.randn(3).half(),
    "nothing": torch.empty(0, 4),
    "naïve": torch.randn(2),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, TENSORS, sealed=True)
    for found in (read_tensors(path), load_file(path)):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
