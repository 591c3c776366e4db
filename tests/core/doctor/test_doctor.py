"""The doctor names planted faults: a wrong kernel, a full disk, an incompatible version, a process that hangs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.doctor.machine import _disk
from phfcli.core.doctor.program import run_phf
from phfcli.core.doctor.steps import REFERENCE, compared

Reference = list[dict[str, Any]]


@pytest.fixture
def reference() -> Reference:
    return json.loads(REFERENCE.read_text())  # type: ignore[no-any-return]


def measured(reference: Reference, **changes: float) -> Reference:
    return [line | {"seconds": 1.0} | changes for line in reference]


def test_equal_values_are_ok(reference: Reference) -> None:
    assert compared("step", measured(reference), reference).state == "ok"


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_a_wrong_kernel_result_is_named(reference: Reference, value: float) -> None:
    finding = compared("step", measured(reference, grad_norm=value), reference)
    assert finding.state == "failed"
    assert finding.found.startswith("grad_norm of step ")
    assert f" is {value:.6g}, and should be " in finding.found
    assert "attention=eager" in finding.fix


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    """With everything that it has started."""
    begun = time.monotonic()
    outcome = run_phf(["train", "--steps", "1000", "--quiet", "--output-dir", str(tmp_path / "run")], within_s=3)
    assert (outcome.code, outcome.done) == (None, False)
    assert outcome.why.startswith("took longer than 3 s")
    assert time.monotonic() - begun < 60


def _doctor(folder: Path, line: str = "", **environment: str) -> tuple[int, list[dict[str, Any]]]:
    command = f"{line} exec {sys.executable} -m phfcli doctor --quick --json"
    paths = os.pathsep.join(filter(None, [environment.pop("FIRST", ""), *sys.path]))
    own = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def _state(findings: list[dict[str, Any]], part: str) -> str:
    return next(f"{finding['state']}: {finding['found']}" for finding in findings if finding["part"] == part)


@pytest.mark.slow
def test_this_machine_is_well(tmp_path: Path) -> None:
    code, findings = _doctor(tmp_path)
    assert code == 0
    assert all(finding["state"] != "failed" for finding in findings)
    assert all(finding["fix"] for finding in findings if finding["state"] != "ok")
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]
    assert json.loads((tmp_path / "doctor.json").read_text())["findings"] == findings


@pytest.mark.slow
def test_an_incompatible_version_is_named(tmp_path: Path) -> None:
    """As the metadata of an installed package tells it."""
    folder = tmp_path / "site" / "peft-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n")
    code, findings = _doctor(tmp_path, FIRST=str(tmp_path / "site"))
    assert code == 1
    assert "peft 0.1.0, wanted >=0.18" in _state(findings, "requirements")
    assert "peft 0.1.0" in _state(findings, "versions")


@pytest.mark.slow
def test_a_kernel_that_computes_something_else_fails(tmp_path: Path) -> None:
    """Every process of this interpreter gets an attention that is off by a tenth."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import torch.nn.functional as F\n"
        "own = F.scaled_dot_product_attention\n"
        "F.scaled_dot_product_attention = lambda q, *args, **kwargs: own(1.1 * q, *args, **kwargs)\n"
    )
    code, findings = _doctor(tmp_path, FIRST=str(tmp_path / "site"))
    assert code == 1
    assert _state(findings, "step on cpu").startswith("failed")


def test_the_disk_is_that_of_the_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    found = _disk()
    assert found.state in ("ok", "warning")  # which depends on this machine's room
    assert f"for runs in {tmp_path / 'runs'}" in found.found


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")  # where even root writes nothing
    found = _disk()
    assert (found.state, "for runs in /proc" in found.found) == ("failed", True)
