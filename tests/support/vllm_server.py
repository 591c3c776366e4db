"""A real `vllm serve` on the CPU of this machine, in float32 and with sequences of at most 512 tokens."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest

NEEDS_VLLM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("vllm") is None and not os.environ.get("PHF_REQUIRE_VLLM"), reason="vLLM is not installed"
    ),
]
START_S = 300

TAKES_ADAPTERS = (
    "--no-enable-chunked-prefill",  # on the CPU a seeded request with a chunked prompt fails
    "--max-num-batched-tokens=8192",
    "--enable-lora",
    "--max-lora-rank=64",
    "--max-loras=2",
    "--logprobs-mode=processed_logprobs",
    "--generation-config=vllm",
)

_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
}
_FLAGS = ("--host=127.0.0.1", "--dtype=float32", "--max-model-len=512", "--enforce-eager")


class VllmServer:
    """A vLLM server on one port, through restarts."""

    def __init__(self, model: Path, folder: Path, flags: Sequence[str]) -> None:
        self._log = folder / "server.log"
        self._options = ["--model", str(model), *_FLAGS, *flags]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Returns before the server answers."""
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(self._port)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*module, *self._options], env=os.environ | _ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )

    def await_start(self) -> None:
        end = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < end, f"the server has not started within {START_S} s"
            time.sleep(1)

    def kill(self) -> None:
        """At once, with all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False


@contextmanager
def vllm_server(model: Path, folder: Path, flags: Sequence[str]) -> Iterator[VllmServer]:
    """A server that answers, until the context ends."""
    server = VllmServer(model, folder, flags)
    try:
        server.await_start()
        yield server
    finally:
        server.kill()
