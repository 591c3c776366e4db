"""All checks of the doctor in order, and those by real training steps.

These are compared with stored values, repeated in several processes, killed and resumed, and made on a given model.
"""

import json
import math
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from phfcli.core.config import TrainConfig
from phfcli.core.doctor.machine import MachineCheck, failed, machine, ok, warning
from phfcli.core.doctor.program import Program, attention_of, metrics_of
from phfcli.core.models.device import accelerator, device_count
from phfcli.core.step_metrics import PHASES
from phfcli.core.storage.files import file_hash


def examine(model: str | None, processes: int | None, engine: str | None, quick: bool) -> Generator[MachineCheck]:
    """Checks the machine; yields each result as soon as it is known.

    Args:
        model: a model whose memory and step time are measured; None skips that check.
        processes: the number of processes in which a step is repeated; 1 skips that check, None is one for each GPU.
        engine: "vllm" checks vLLM and fails if it is not installed, "transformers" skips that check, None checks vLLM
            if it is installed.
        quick: whether to check only what is installed, and one step on each device.
    """
    yield from machine()
    with tempfile.TemporaryDirectory(prefix="phf-doctor-", ignore_cleanup_errors=True) as name:
        program = Program(Path(name))
        for device in devices():
            for dtype in WAYS:
                yield reference_step(program, device, dtype)
        if quick:
            return
        if (count := processes or device_count()) > 1:
            yield several_processes(program, count)
        yield killed_and_resumed(program)
        if engine == "vllm" or (engine is None and find_spec("vllm") is not None):
            yield from vllm(program)
        elif engine is None:
            yield warning("vLLM", "is not installed", "install it to sample fast on GPUs: pip install -e '.[vllm]'")
        if model is not None:
            yield memory_of(program, model)


def step_times(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median seconds of a step and of each of its phases, without the first step, which is slower."""
    names = ["seconds", *(f"{phase}_seconds" for phase in PHASES)]
    return {name: median(line[name] for line in lines[1:] or lines) for name in names}


def describe_times(times: Mapping[str, float]) -> str:
    """The result of `step_times` as text."""
    phases = ", ".join(f"{phase} {times[f'{phase}_seconds']:.2f}" for phase in PHASES)
    return f"{times['seconds']:.2f} s a step ({phases})"


_MODEL_S = 600.0  # extra time to load a model and make two steps


def memory_of(program: Program, model: str) -> MachineCheck:
    """Compares the peak memory of a step on a model with the prediction, and estimates the hours of the recipe."""
    part, run = f"memory of {model}", program.folder / "memory"
    command = [*("train", "--model", model, "--data", "embedded", "--steps", "2", "--quiet", "--set", "batch_size=4")]
    command += [*("--set", "micro_batch_size=4", "--set", "rollout.max_new_tokens=64", "--engine", "transformers")]
    planning = program.run([*command, "--dry-run", "--json"])
    if not planning.done:
        return failed(part, planning.why, f"a dry run of `phf train` with model={model} says why")
    outcome = program.run([*command, "--output-dir", str(run)], extra_s=_MODEL_S)
    if not outcome.done:
        return failed(part, outcome.why, f"a dry run of `phf train` with model={model} shows what it takes")
    lines = metrics_of(run)
    planned = json.loads(planning.printed)["memory_bytes"]["total"]
    peak = max(line["peak_memory_bytes"] for line in lines)
    ratio = planned / peak
    times = step_times(lines)
    hours = _recipe_hours(times["seconds"] / max(1.0, 4 * median(line["rollout_tokens"] for line in lines)))
    found = (
        f"predicted {planned / 2**30:.2f} GiB, measured {peak / 2**30:.2f}; {describe_times(times)} of 4; "
        f"the recipe: about {hours:.1f} hours on one such device"
    )
    figures = {"predicted_bytes": planned, "measured_bytes": peak, "recipe_hours": hours, **times}
    if not 0.8 <= ratio <= 1.25:
        return warning(part, found, "leave more room than the plan says", **figures)
    return ok(part, found, **figures)


def _recipe_hours(seconds: float) -> float:
    """The hours of a run with the default settings, those of the paper, at so many seconds for each rollout token."""
    recipe = TrainConfig()
    return seconds * recipe.steps * recipe.batch_size * recipe.rollout.max_new_tokens / 3600


_SAMPLING_GAP = 0.1  # nats, the largest acceptable gap of log-probabilities
_START_S = 240.0  # extra time to start vLLM, which took 156 s on a busy machine


def vllm(program: Program) -> Iterator[MachineCheck]:
    """Checks that vLLM starts, takes new adapter weights, and computes the log-probabilities of the trainer."""
    run = program.folder / "vllm"
    options = ["--objective", "grpo", "--steps", "2", "--engine", "vllm", "--set", "batch_size=2", "--quiet"]
    words = ["train", *options, "--set", "rollout.max_new_tokens=48", "--output-dir", str(run)]
    outcome = program.run(words, extra_s=_START_S)
    if not outcome.done:
        fix = "train and evaluate with engine=transformers, or install the vLLM that fits this torch"
        yield failed("vLLM", outcome.why, fix)
        return
    lines = metrics_of(run)
    yield ok("vLLM", f"starts, and takes new adapter weights; {outcome.seconds:.0f} s in all")
    gap = max(line.get("engine_gap", 0.0) for line in lines)
    if gap > _SAMPLING_GAP:
        fix = "its probabilities are not the trainer's: set engine to transformers, or use the same dtype in both"
        yield failed("vLLM log-probabilities", f"{gap:.3g} nats from the trainer's", fix, engine_gap=gap)
    else:
        yield ok("vLLM log-probabilities", f"at most {gap:.2g} nats from the trainer's, on average", engine_gap=gap)


REFERENCE = Path(__file__).with_name("reference.json")
STEPS = 2
_KILLED_AT = 5
_FIX = "look at the line, and report it with doctor.json if it names no cause"
_STEP = [
    *("train", "--objective", "phf", "--engine", "transformers", "--quiet"),
    *("--set", "batch_size=8", "--set", "micro_batch_size=8", "--set", "rollout.max_new_tokens=48"),
]
# All machines must compute on the same tokens: float32 samples greedily; bfloat16 has too many ties for that and reads
# the references. bfloat16 has no clip, at which a rounding difference changes the gradient.
WAYS = {
    "float32": [*_STEP, "--set", "dtype=float32", "--set", "rollout.top_k=1"],
    "bfloat16": [
        *(*_STEP, "--set", "dtype=bfloat16"),
        *("--set", "rollout.references=1", "--set", "divergence.clip=null"),
    ],
}
# relative; kernels round differently, and in bfloat16 one such difference moved the next gradient's norm by 5% after an
# optimizer step
_TOLERANCES = {"float32": 0.02, "bfloat16": 0.1}


def reference_step(program: Program, device: str, dtype: str = "float32") -> MachineCheck:
    """Compares steps on a device with the values in reference.json, which reveals a wrong kernel."""
    part = f"step on {device}" if dtype == "float32" else f"{dtype} step on {device}"
    return _step(program, part, ["--set", f"device={device}"], _FIX, dtype)


def several_processes(program: Program, processes: int) -> MachineCheck:
    """Compares steps in several processes with the same steps in one."""
    fix = "a process fails or hangs: NCCL_DEBUG=INFO says more of the network between devices; try one process fewer"
    return _step(program, f"{processes} processes", ["--processes", str(processes)], fix)


def _step(program: Program, part: str, options: Sequence[str], fix: str, dtype: str = "float32") -> MachineCheck:
    run = program.folder / part.replace(" ", "-").replace(":", "-")
    outcome = program.run([*WAYS[dtype], "--steps", str(STEPS), *options, "--output-dir", str(run)])
    if not outcome.done:
        return failed(part, outcome.why, fix)
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))[dtype]
    return compared(part, metrics_of(run), reference, _TOLERANCES[dtype], attention_of(run))


def compared(
    part: str, lines: list[dict[str, Any]], reference: list[dict[str, float]], tolerance: float, attention: str
) -> MachineCheck:
    """Compares each metric of each step with its reference value, by relative error."""
    errors = [
        (abs(line[name] - value) / max(abs(value), 1e-9), step, name, line[name], value)
        for step, (line, known) in enumerate(zip(lines, reference, strict=True), start=1)
        for name, value in known.items()
    ]
    error, step, name, value, wanted = max(errors, key=lambda entry: (not math.isfinite(entry[0]), entry[0]))
    if not error <= tolerance:
        found = f"{name} of step {step} is {value:.6g}, and should be {wanted:.6g}"
        return failed(part, found, "a kernel computes another value here: try another torch, or attention=eager")
    times = step_times(lines)
    found = f"attention by {attention}, every value within {max(error, 1e-9):.1g} of the stored ones"
    return ok(part, f"{found}, {describe_times(times)}", attention=attention, largest_error=error, **times)


def killed_and_resumed(program: Program) -> MachineCheck:
    """Checks that ten steps that were killed in the middle and resumed give the same adapter, bit by bit."""
    part, whole, killed = "kill and resume", program.folder / "whole", program.folder / "killed"
    options = [*WAYS["float32"], "--steps", "10", "--checkpoint-every", "2", "--set", "flow.saved_samples=0"]
    fix = "look at the line; free disk and memory are the usual causes"
    uninterrupted = program.run([*options, "--output-dir", str(whole)])
    if not uninterrupted.done:
        return failed(part, uninterrupted.why, fix)
    if program.run([*options, "--output-dir", str(killed)], kill_at=(killed / "metrics.jsonl", _KILLED_AT)).done:
        return warning(part, "ten steps ended before they could be killed", "run the doctor again")
    resumed = program.run([*options, "--output-dir", str(killed), "--resume"])
    if not resumed.done:
        return failed(part, resumed.why, fix)
    hashes = {file_hash(run / "checkpoints/step-000010/adapter_model.safetensors") for run in (whole, killed)}
    if len(hashes) > 1:
        return warning(
            part, "a resumed run continues slightly differently", "this machine's kernels are not deterministic"
        )
    return ok(part, f"killed after step {_KILLED_AT}, resumed, the same adapter to the bit")


def devices() -> list[str]:
    """The devices on which a step is checked."""
    kind = accelerator()
    return [f"{kind.type}:{index}" for index in range(device_count())] if kind else ["cpu"]
