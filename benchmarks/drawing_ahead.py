"""What `rollout.ahead=1` gives with a server: `python benchmarks/drawing_ahead.py [--pairs 5]`.

A real `vllm serve` has one core of this machine, the trainer another. Runs that wait for each step's rollouts and runs
that draw them a step ahead are made in turn; a run's figure is the median of its steps, the first four left out.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from harness.processes import metrics_of, run_phf, scratch
from harness.tables import Table, spread

from phfcli.core.shipped_files import embedded_model

WARM_UP = 4
START_S = 300
FLAGS = (
    *("--dtype=float32", "--max-model-len=512", "--enforce-eager", "--no-enable-chunked-prefill"),
    *("--max-num-batched-tokens=8192", "--generation-config=vllm", "--logprobs-mode=processed_logprobs"),
    *("--enable-lora", "--max-lora-rank=64", "--max-loras=2"),
)
SERVER = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def server(model: Path, core: int, log: Path) -> Iterator[str]:
    """The address of a vLLM server on that core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", f"--port={port}"]
    command = ["taskset", "-c", str(core), *serve, f"--model={model}", *FLAGS]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=os.environ | SERVER, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


def seconds_of_a_step(folder: Path, url: str, model: Path, ahead: int, steps: int) -> tuple[float, float]:
    """Median seconds of a step, and of those that it waited for rollouts."""
    settings = [f"rollout.engine={url}", f"rollout.ahead={ahead}", "flow.saved_samples=0", "batch_size=16"]
    settings += ["micro_batch_size=16", "rollout.max_new_tokens=96"]
    options = [part for setting in settings for part in ("--set", setting)]
    options += ["--data", "embedded", "--steps", str(steps), "--output-dir", str(folder), "--quiet"]
    run_phf(["train", "--objective", "phf", "--model", str(model), *options], threads=1)
    rows = metrics_of(folder)[WARM_UP:]
    return statistics.median(row["seconds"] for row in rows), statistics.median(row["rollout_seconds"] for row in rows)


def main(
    pairs: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Of each run.")] = 20,
    model: Annotated[Path | None, typer.Option(help="A model folder; the embedded model by default.")] = None,
) -> None:
    """Time steps that wait for a server, and steps whose rollouts it draws while the one before is updated."""
    found: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    with scratch() as folder:
        model = model or embedded_model()
        with server(model, 0, folder / "server.log") as url:
            os.sched_setaffinity(0, {1})
            for pair in range(pairs):
                for ahead in (0, 1):
                    found[ahead].append(seconds_of_a_step(folder / f"{pair}-{ahead}", url, model, ahead, steps))
    ratios = [waiting[0] / drawn[0] for waiting, drawn in zip(found[0], found[1], strict=True)]
    rows = [
        [name, spread([one[0] for one in found[ahead]]), spread([one[1] for one in found[ahead]]), ratio]
        for ahead, name, ratio in ((0, "drawn in time", ""), (1, "drawn ahead", spread(ratios)))
    ]
    note = f"Seconds as median (range) of {pairs} runs of {steps} steps, in turn: server and trainer on a core each."
    Table("Rollouts drawn ahead", note, ["rollouts", "seconds a step", "of them waiting", "times as fast"], rows).show()


if __name__ == "__main__":
    typer.run(main)
