"""A step of the model that somebody means to train."""

import json
from statistics import median

from phfcli.core.config import TrainConfig
from phfcli.core.doctor.finding import Finding, failed, ok, warning
from phfcli.core.doctor.program import Program, metrics_of
from phfcli.core.doctor.step_times import step_times, told_times

_MODEL_S = 600.0  # to load it, and for two steps of it


def memory_of(program: Program, model: str) -> Finding:
    """The peak of a step on the given model against what the plan predicts, and what a recipe of it takes."""
    part, run = f"memory of {model}", program.folder / "memory"
    own = [*("train", "--model", model, "--data", "embedded", "--steps", "2", "--quiet", "--set", "batch_size=4")]
    own += [*("--set", "micro_batch_size=4", "--set", "rollout.max_new_tokens=64", "--engine", "transformers")]
    planning = program.run([*own, "--dry-run", "--json"])
    if not planning.done:
        return failed(part, planning.why, f"phf train --model {model} --dry-run says why")
    outcome = program.run([*own, "--output-dir", str(run)], extra_s=_MODEL_S)
    if not outcome.done:
        return failed(part, outcome.why, f"phf train --model {model} --dry-run shows what it takes")
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
