"""What the doctor reads of a machine, from a hub, a driver and a CI file that are there."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from phfcli.core.doctor.machine import TESTED, _versions

SECRET = "hf_secretsecretsecret"
HUB = "from phfcli.core.doctor.machine import _hub; one = _hub(); print(one.state, one.found, one.fix, sep='|')"


class Hub(BaseHTTPRequestHandler):
    """Knows who has the right token."""

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        right = self.headers["Authorization"] == f"Bearer {SECRET}"
        self._answer(*((200, b'{"name": "me"}') if right else (401, b'{"error": "Invalid credentials"}')))

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def told(tmp_path: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    own = kept | {"HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    done = subprocess.run([sys.executable, "-c", HUB], env=own, capture_output=True, text=True, check=True)
    assert SECRET not in done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_hub_and_its_token(tmp_path: Path) -> None:
    with hub() as address:
        assert told(tmp_path, HF_ENDPOINT=address) == "ok|answers; no token|"
        assert told(tmp_path, HF_ENDPOINT=address, HF_TOKEN=SECRET) == "ok|answers, and accepts the token that is set|"
        refused = told(tmp_path, HF_ENDPOINT=address, HF_TOKEN="hf_old")
    assert refused.startswith("failed|answers, and refuses the token that is set (status 401)|log in again")
    gone = told(tmp_path, HF_ENDPOINT=address, HF_TOKEN=SECRET)
    assert gone == "warning|does not answer; a token is set|models and data must be local or in the cache"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU is there")
def test_a_machine_without_a_gpu_has_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "NVIDIA driver none" in _versions().found


def test_the_driver_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "NVIDIA driver 580.65.06," in f"{_versions().found},"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "NVIDIA driver does not answer nvidia-smi" in _versions().found


def test_what_is_tested_is_what_ci_runs() -> None:
    root = Path(__file__).parents[3]
    jobs = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    matrices = [job["strategy"]["matrix"] for job in jobs.values() if "matrix" in job.get("strategy", {})]
    assert {version for matrix in matrices for version in matrix.get("python", ())} == set(TESTED["python"])
    pins = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line)
    for name in ("transformers", "peft"):
        assert pins[name].startswith(f"{TESTED[name][-1]}.")
