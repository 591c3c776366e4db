"""The doctor names planted faults.

A wrong kernel, an adapter that is not swapped, a full disk, an incompatible version, a process or a rank that hangs.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from heeded_signals import heed_signals

from phfcli.core.doctor import steps
from phfcli.core.doctor.machine import _disk
from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import REFERENCE, compared, memory_of
from phfcli.core.step_metrics import MACHINE_METRICS

Plant = Callable[[str], None]
Reference = list[dict[str, Any]]


@pytest.fixture
def reference() -> Reference:
    return json.loads(REFERENCE.read_text())["float32"]  # type: ignore[no-any-return]


def measured(reference: Reference, **changes: float) -> Reference:
    return [line | dict.fromkeys(MACHINE_METRICS, 0.5) | changes for line in reference]


def test_equal_values_are_ok(reference: Reference) -> None:
    assert compared("step", measured(reference), reference, 0.02, "sdpa").state == "ok"


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_a_wrong_kernel_result_is_named(reference: Reference, value: float) -> None:
    finding = compared("step", measured(reference, grad_norm=value), reference, 0.02, "sdpa")
    assert finding.state == "failed"
    assert finding.found.startswith("grad_norm of step ")
    assert f" is {value:.6g}, and should be " in finding.found
    assert "attention=eager" in finding.fix


@pytest.mark.slow
def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    """With everything that it has started."""
    begun, program = time.monotonic(), Program(tmp_path)
    program.limit_s = 3.0
    outcome = program.run(["train", "--steps", "1000", "--quiet", "--output-dir", str(tmp_path / "run")])
    assert (outcome.code, outcome.done) == (None, False)
    assert outcome.why.startswith("took longer than 3 s")
    assert time.monotonic() - begun < 60


def _doctor(folder: Path, options: str = "--quick", **environment: str) -> tuple[int, list[dict[str, Any]]]:
    command = f"exec {sys.executable} -m phfcli doctor --json {options}"
    paths = os.pathsep.join(filter(None, [environment.pop("FIRST", ""), *sys.path]))
    own = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def _state(findings: list[dict[str, Any]], part: str) -> str:
    return next(f"{finding['state']}: {finding['found']}" for finding in findings if finding["part"] == part)


@pytest.mark.slow
def test_this_machine_is_well(tmp_path: Path, stranger: Path) -> None:
    """Also where temporary files lie so deep that a path to a socket there would be too long."""
    deep = tmp_path.parent / f"{tmp_path.name}-{'deep' * 25}"
    deep.mkdir()
    engine = "transformers" if find_spec("vllm") is None else "vllm"
    code, findings = _doctor(tmp_path, f"--processes 2 --engine {engine} --model {stranger}", TMPDIR=str(deep))
    assert code == 0
    assert all(finding["state"] != "failed" for finding in findings)
    assert all(finding["fix"] for finding in findings if finding["state"] != "ok")
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]
    assert json.loads((tmp_path / "doctor.json").read_text())["findings"] == findings

    told = {finding["part"]: finding for finding in findings}
    assert told["2 processes"]["figures"]["largest_error"] < 1e-4
    assert told["kill and resume"]["found"] == "killed after step 5, resumed, the same adapter to the bit"
    if engine == "vllm":
        assert (told["vLLM"]["state"], told["vLLM log-probabilities"]["state"]) == ("ok", "ok")
        assert 0 < told["vLLM log-probabilities"]["figures"]["engine_gap"] < 0.1
    memory = next(finding for part, finding in told.items() if part.startswith("memory"))
    predicted, measured_ = (memory["figures"][f"{name}_bytes"] for name in ("predicted", "measured"))
    assert f"predicted {predicted / 2**30:.2f} GiB" in memory["found"]
    # a model this small is smaller than the interpreter's own memory
    assert memory["state"] == ("ok" if 0.8 <= predicted / measured_ <= 1.25 else "warning")
    assert memory["figures"]["recipe_hours"] > 0


@pytest.mark.slow
def test_a_full_disk_a_wrong_version_and_a_wrong_kernel_are_named(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """The report cannot be written to the disk either, and the findings are told all the same.

    The version is wrong in a package's metadata; every process of this interpreter gets an attention that is off.
    """
    disk = small_disk("64k")
    (disk / "filler").write_bytes(b"x" * 2**16)
    package = tmp_path / "site" / "peft-0.1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n")
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import torch.nn.functional as F\n"
        "own = F.scaled_dot_product_attention\n"
        "F.scaled_dot_product_attention = lambda q, *args, **kwargs: own(1.1 * q, *args, **kwargs)\n"
    )
    code, findings = _doctor(disk, FIRST=str(tmp_path / "site"))
    assert code == 1
    assert _state(findings, "disk").startswith("failed")
    assert f"runs cannot be written there: {os.strerror(errno.ENOSPC)}" in _state(findings, "disk")
    assert "peft 0.1.0, wanted >=0.18" in _state(findings, "requirements")
    assert "peft 0.1.0" in _state(findings, "versions")
    assert _state(findings, "step on cpu").startswith("failed")
    assert _state(findings, "bfloat16 step on cpu").startswith("failed")


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


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(plant: Plant, tmp_path: Path) -> None:
    """The second process stops for good before it meets the first."""
    plant("import os, time\nif os.environ.get('LOCAL_RANK') == '1': time.sleep(10**6)\n")
    program = Program(tmp_path)
    program.limit_s = 10.0
    finding = steps.several_processes(program, 2)
    assert (finding.state, finding.part) == ("failed", "2 processes")
    assert finding.found.startswith("took longer than 10 s")
    assert "a process fails or hangs" in finding.fix
    assert _left(tmp_path) == []


def _left(folder: Path) -> list[psutil.Process]:
    """Processes whose temporary files lie in a folder."""
    left = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.environ().get("TMPDIR", "").startswith(str(folder)):
                left.append(one)
    return left


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """No process, and no file beside the findings so far."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    own = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "phfcli", "doctor", "--engine", "transformers"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=own, preexec_fn=heed_signals, **pipes) as doctor:
        while doctor.poll() is None and not list(temporary.glob("phf-doctor-*/step-on-cpu/metrics.jsonl")):
            time.sleep(0.1)
        assert len(_left(temporary)) >= 2  # the doctor and what it has started
        doctor.send_signal(number)
        _out, err = doctor.communicate(timeout=60)
    assert doctor.returncode == 128 + number
    assert err.decode().splitlines()[-1].startswith("phf: stopped")
    assert _left(temporary) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["doctor.json", "tmp"]
    assert json.loads((tmp_path / "doctor.json").read_text())["findings"][-1]["part"] == "hub"


@pytest.mark.slow
def test_a_resumed_run_that_goes_another_way_is_named(plant: Plant, tmp_path: Path) -> None:
    """The kernels of the process that resumes compute other gradients."""
    plant(
        "import sys, torch\n"
        "own = torch.optim.AdamW.step\n"
        "def step(self, *args, **kwargs):\n"
        "    for group in self.param_groups if '--resume' in sys.argv else ():\n"
        "        for p in group['params']: p.grad = None if p.grad is None else 1.5 * p.grad\n"
        "    return own(self, *args, **kwargs)\n"
        "torch.optim.AdamW.step = step\n"
    )
    finding = steps.killed_and_resumed(Program(tmp_path))
    assert (finding.state, finding.found) == ("warning", "a resumed run continues slightly differently")


@pytest.mark.slow
def test_steps_that_cannot_be_made_are_told(plant: Plant, tmp_path: Path) -> None:
    """The optimizer is refused in every process of this interpreter."""
    plant(
        "import torch\n"
        "def step(*_, **__): raise OSError(28, 'No space left on device')\n"
        "torch.optim.AdamW.step = step\n"
    )
    finding = memory_of(Program(tmp_path), "embedded")
    assert finding.state == "failed"
    assert "No space left on device" in finding.found
    assert finding.fix
