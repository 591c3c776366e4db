"""What is recorded of a run: the program that made it, its settings, and where its paths lead."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.runs import folder as provenance
from phfcli.core.runs.folder import environment, note_settings, recorded_config

CHECKOUT = Path(provenance.__file__).parents[3]


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="this is no checkout")
def test_the_revision_of_the_checkout_is_recorded() -> None:
    head = subprocess.run(["git", "-C", str(CHECKOUT), "describe", "--always"], capture_output=True, text=True).stdout
    assert str(environment(torch.device("cpu"))["git"]).startswith(head.strip())


def test_a_machine_without_git_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    assert environment(torch.device("cpu"))["git"] is None


def test_an_installed_package_does_not_take_the_revision_of_the_project_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    installed = tmp_path / ".venv" / "site-packages" / "phfcli" / "core" / "runs" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert environment(torch.device("cpu"))["git"] is None


def test_a_relative_path_means_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "teacher", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("data.jsonl", "bench.jsonl", "bridge.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    set_ = {"teacher": {"kind": "external", "model": "teacher"}, "oprd": {"bridge": "bridge.safetensors"}}
    tree = {"model": "base", "data": "./data.jsonl", "evaluation": {"bench": "bench.jsonl"}, **set_}
    (tmp_path / "run").mkdir()
    note_settings(tmp_path / "run", TrainConfig.model_validate(tree))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("base", "teacher"):
        (tmp_path / "elsewhere" / name).mkdir()
    read = recorded_config(tmp_path / "run")
    assert (read.model, read.data) == (str(tmp_path / "base"), str(tmp_path / "data.jsonl"))
    assert (read.teacher.model, read.oprd.bridge) == (
        str(tmp_path / "teacher"),
        str(tmp_path / "bridge.safetensors"),
    )
    assert read.evaluation.bench == str(tmp_path / "bench.jsonl")


def test_the_base_of_an_old_run_is_where_its_checkpoints_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer.json").write_text(json.dumps({"step": 1, "model": "/models/base", "schedule": {}}))
    (tmp_path / "run" / "config.yaml").write_text("model: ../base\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert recorded_config(tmp_path / "run").model == "/models/base"


@pytest.mark.parametrize("name", ["embedded", "", "Qwen/Qwen3-4B", "x" * 5000, "a\0b"])
def test_what_is_no_path_here_stays_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrainConfig(model=name).model == name


def test_an_edited_config_is_refused_with_the_way_out(tmp_path: Path) -> None:
    note_settings(tmp_path, TrainConfig())
    file = tmp_path / "config.yaml"
    file.write_text(file.read_text().replace("alpha: 0.05", "alpha: 0.55"))
    with pytest.raises(UserError, match=r"config\.yaml: damaged: .*options, or remove its line '# seal'"):
        recorded_config(tmp_path)
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "# seal" not in line))
    assert recorded_config(tmp_path).flow.alpha == 0.55
