"""Bridges on disk, and objectives that go through one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import Projector
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.other_teachers import Bridge, load_bridge, save_bridge


def bridge() -> Bridge:
    own, other = Projector(torch.randn(1, 2, 6), torch.randn(1, 6)), Projector(torch.randn(1, 2, 3), torch.randn(1, 3))
    return Bridge((4,), own, other, {"student": {"name": "a"}, "teacher": {"name": "b"}})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    made, path = bridge(), tmp_path / "b.safetensors"
    save_bridge(path, made)
    read = load_bridge(path)
    assert (read.layers, read.about, read.path) == ((4,), made.about, path)
    states = torch.randn(1, 5, 7, 6), torch.randn(1, 5, 7, 3)
    for got, want in zip(read.project(*states), made.project(*states), strict=True):
        assert got.shape == (1, 5, 7, 2)
        assert torch.equal(got, want)
    assert [p.name for p in tmp_path.iterdir()] == ["b.safetensors"]


def test_what_is_no_bridge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_bridge(path)
    save_file({"layers": torch.tensor([1])}, path)
    with pytest.raises(UserError, match="not a bridge; make one with `phf bridge fit`"):
        load_bridge(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_bridge(path)


def test_the_bridge_says_which_layers_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_bridge(path, bridge())
    tree = {"objective": "oprd", "oprd": {"bridge": str(path)}, "teacher": {"kind": "external", "model": "b"}}
    needs = build_objective(TrainConfig.model_validate(tree)).needs
    assert (needs.layers, needs.outputs, needs.privileged) == ((4,), False, False)
    for change in ({"teacher": {}}, {"oprd": {"bridge": str(path), "layers": "last"}}):
        with pytest.raises(UserError, match=r"oprd.bridge: it brings its own oprd.layers"):
            build_objective(TrainConfig.model_validate(tree | change))
