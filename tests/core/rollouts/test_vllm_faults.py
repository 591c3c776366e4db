"""When vLLM ends or refuses a model there is a line with vLLM's own reason, and nothing waits for ever."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from families import build, family
from heeded_signals import heed_signals
from vllm_server import NEEDS_VLLM

from phfcli.core.config import EvalConfig, ModelSettings
from phfcli.core.errors import FaultError
from phfcli.core.models.description import load_description
from phfcli.core.rollouts import single
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import VllmEngine
from phfcli.core.types import Request, Sampling

pytestmark = [*NEEDS_VLLM, pytest.mark.filterwarnings("ignore")]  # vLLM's own warnings


def _kill(engine: Any) -> None:
    for process in engine._engine.engine_core.resources.engine_manager.processes:
        os.kill(process.pid, signal.SIGKILL)


def test_an_engine_that_is_killed_ends_the_wait_with_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    engine = VllmEngine(Serving(ModelSettings(device="cpu"), length=512))
    capfd.readouterr()
    requests = [Request((5, 8, 11), seed) for seed in range(2000)]
    killer, drawn = threading.Timer(1.0, _kill, [engine]), []
    killer.start()

    def draw() -> None:
        drawn.extend(engine.sample(requests, Sampling(max_new_tokens=500)))

    with pytest.raises(FaultError, match=r"^engine: vllm: its process has ended by SIGKILL.*the same command goes on"):
        draw()
    assert len(drawn) < len(requests)
    engine.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_vllm_starts_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal and a scheduler send it to every process of the job; vLLM swallows a KeyboardInterrupt there."""
    command = [sys.executable, "-m", "phfcli", "eval", "embedded", "--engine", "vllm", "--output-dir", str(tmp_path)]
    began = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_signals
    )
    while not psutil.Process(began.pid).children():
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(began.pid, number)
    _, err = began.communicate(timeout=60)
    assert began.returncode == 128 + number
    assert err.splitlines()[-1].startswith("phf: stopped; ")
    assert "Traceback" not in err


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """A model of heads so narrow that vLLM has no attention for them on a CPU."""
    tokenizer = load_description("embedded").tokenizer
    build(family("phi3")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_model_that_vllm_refuses_is_drawn_by_transformers_with_auto(
    refused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "is_vllms_gpu", lambda _device: True)
    config, warnings = EvalConfig(model=str(refused), device="cpu"), list[str]()
    engine = single.single_engine(config, Serving(config, 64), warnings.append)
    assert engine.name == "transformers"
    (warning,) = warnings
    engine.close()
    assert warning.startswith("engine: auto: vLLM cannot run this model (Unsupported CPU attention configuration")
