"""Real steps on this machine: against stored values, in several processes, killed and resumed, of a given model."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from phfcli.core.config import TrainConfig
from phfcli.core.doctor.machine import MachineCheck, failed, ok, warning
from phfcli.core.doctor.program import Program, attention_of, metrics_of
from phfcli.core.step_metrics import PHASES
from phfcli.core.storage.files import file_hash


def step_times(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of a step and of each of its phases, of a run; the first one has warmed up for the others."""
    names = ["seconds", *(f"{phase}_seconds" for phase in PHASES)]
    return {name: median(line[name] for line in lines[1:] or lines) for name in names}


def told_times(times: Mapping[str, float]) -> str:
    """The same in words."""
    phases = ", ".join(f"{phase} {times[f'{phase}_seconds']:.2f}" for phase in PHASES)
    return f"{times['seconds']:.2f} s a step ({phases})"


_MODEL_S = 600.0  # to load it, and for two steps of it


def memory_of(program: Program, model: str) -> MachineCheck:
    """The peak of a step on the given model against what the plan predicts, and what a recipe of it takes."""
    part, run = f"memory of {model}", program.folder / "memory"
    own = [*("train", "--model", model, "--data", "embedded", "--steps", "2", "--quiet", "--set", "batch_size=4")]
    own += [*("--set", "micro_batch_size=4", "--set", "rollout.max_new_tokens=64", "--engine", "transformers")]
    planning = program.run([*own, "--dry-run", "--json"])
    if not planning.done:
        return failed(part, planning.why, f"a dry run of `phf train` with model={model} says why")
    outcome = program.run([*own, "--output-dir", str(run)], extra_s=_MODEL_S)
    if not outcome.done:
        return failed(part, outcome.why, f"a dry run of `phf train` with model={model} shows what it takes")
    lines = metrics_of(run)
    planned = json.loads(planning.printed)["memory_bytes"]["total"]
    peak = max(line["peak_memory_bytes"] for line in lines)
    ratio = planned / peak
    times = step_times(lines)
    hours = _recipe_hours(times["seconds"] / max(1.0, 4 * median(line["rollout_tokens"] for line in lines)))
    found = (
        f"predicted {planned / 2**30:.2f} GiB, measured {peak / 2**30:.2f}; {told_times(times)} of 4; "
        f"the recipe: about {hours:.1f} hours on one such device"
    )
    figures = {"predicted_bytes": planned, "measured_bytes": peak, "recipe_hours": hours, **times}
    if not 0.8 <= ratio <= 1.25:
        return warning(part, found, "leave more room than the plan says", **figures)
    return ok(part, found, **figures)


def _recipe_hours(seconds: float) -> float:
    """Of a run with the default settings, the paper's, at so many seconds for each token of a rollout."""
    recipe = TrainConfig()
    return seconds * recipe.steps * recipe.batch_size * recipe.rollout.max_new_tokens / 3600


_SAMPLING_GAP = 0.1  # nats
_START_S = 240.0  # beside other work vLLM alone took 156 s


def vllm(program: Program) -> Iterator[MachineCheck]:
    """vLLM starts, follows another adapter, and its log-probabilities are the trainer's."""
    run = program.folder / "vllm"
    options = ["--objective", "grpo", "--steps", "2", "--engine", "vllm", "--set", "batch_size=2", "--quiet"]
    words = ["train", *options, "--set", "rollout.max_new_tokens=48", "--output-dir", str(run)]
    outcome = program.run(words, extra_s=_START_S)
    if not outcome.done:
        fix = "train and evaluate with engine=transformers, or install the vLLM that fits this torch"
        yield failed("vLLM", outcome.why, fix)
        return
    lines = metrics_of(run)
    yield ok("vLLM", f"starts, and follows another adapter and back; {outcome.seconds:.0f} s in all")
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
# machines compute on the same tokens: the likeliest ones in float32, the references in bfloat16, which has many ties;
# and there without the clip, at which a gradient turns by a rounding
WAYS = {
    "float32": [*_STEP, "--set", "dtype=float32", "--set", "rollout.top_k=1"],
    "bfloat16": [
        *(*_STEP, "--set", "dtype=bfloat16"),
        *("--set", "rollout.references=1", "--set", "divergence.clip=null"),
    ],
}
# relative: kernels round differently; in bfloat16 one such difference, after an optimizer step, moved the norm of the
# next gradient by 5%
_TOLERANCES = {"float32": 0.02, "bfloat16": 0.1}


def reference_step(program: Program, device: str, dtype: str = "float32") -> MachineCheck:
    """A step on a device against the values of the machine that wrote reference.json: a wrong kernel shows here."""
    part = f"step on {device}" if dtype == "float32" else f"{dtype} step on {device}"
    return _step(program, part, ["--set", f"device={device}"], _FIX, dtype)


def several_processes(program: Program, processes: int) -> MachineCheck:
    """A step in N processes against the same step in one."""
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
    """Each metric of each step against its reference, by its relative error."""
    apart = [
        (abs(line[name] - value) / max(abs(value), 1e-9), step, name, line[name], value)
        for step, (line, known) in enumerate(zip(lines, reference, strict=True), start=1)
        for name, value in known.items()
    ]
    error, step, name, value, wanted = max(apart, key=lambda entry: (not math.isfinite(entry[0]), entry[0]))
    if not error <= tolerance:
        found = f"{name} of step {step} is {value:.6g}, and should be {wanted:.6g}"
        return failed(part, found, "a kernel computes something else here: try another torch, or attention=eager")
    times = step_times(lines)
    found = f"attention by {attention}, every value within {max(error, 1e-9):.1g} of the stored ones"
    return ok(part, f"{found}, {told_times(times)}", attention=attention, largest_error=error, **times)


def killed_and_resumed(program: Program) -> MachineCheck:
    """Ten steps in one go, and ten that were killed in the middle: the same adapter to the bit."""
    part, whole, killed = "kill and resume", program.folder / "whole", program.folder / "killed"
    options = [*WAYS["float32"], "--steps", "10", "--checkpoint-every", "2", "--set", "flow.saved_samples=0"]
    fix = "look at the line; free disk and memory are the usual causes"
    straight = program.run([*options, "--output-dir", str(whole)])
    if not straight.done:
        return failed(part, straight.why, fix)
    if program.run([*options, "--output-dir", str(killed)], kill_at=(killed / "metrics.jsonl", _KILLED_AT)).done:
        return warning(part, "ten steps were over before they could be killed", "run the doctor again")
    again = program.run([*options, "--output-dir", str(killed), "--resume"])
    if not again.done:
        return failed(part, again.why, fix)
    hashes = {file_hash(run / "checkpoints/step-000010/adapter_model.safetensors") for run in (whole, killed)}
    if len(hashes) > 1:
        return warning(
            part, "a resumed run goes on a little differently", "this machine's kernels are not deterministic"
        )
    return ok(part, f"killed after step {_KILLED_AT}, resumed, the same adapter to the bit")


def devices() -> list[str]:
    """Every device that a step is tried on."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
