"""Two processes, an accelerator each, train as two processes of the CPU do: gloo carries this device's tensors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trained import assert_near_weights, metrics

_SETTINGS = ("dtype=float32", "optim.lr=1e-4", "batch_size=4", "micro_batch_size=2", "rollout.max_new_tokens=12")
# in each process that torchrun's agent starts, before phf begins
_BEGIN = """
import os
if "LOCAL_RANK" in os.environ:
    import pretended_accelerator
    pretended_accelerator.install()
    pretended_accelerator.Device().__enter__()
"""


def _train(run: Path, site: Path, device: str) -> Path:
    own = {"PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "1"}
    sets = [word for setting in (f"device={device}", *_SETTINGS) for word in ("--set", setting)]
    words = ["train", "--steps", "2", "--processes", "2", "--quiet", *sets, "--output-dir", str(run)]
    command = [sys.executable, "-m", "phfcli", *words]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return run


def test_two_processes_train_as_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_BEGIN)
    here = _train(tmp_path / "here", tmp_path, "cpu")
    there = _train(tmp_path / "there", tmp_path / "site", "auto")
    assert "a pretended accelerator" in (there / "manifest.json").read_text()
    own, wanted = metrics(there), metrics(here)
    assert own[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-6)
    assert own[1]["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-3, abs=1e-6)
    assert_near_weights(there, here)
