"""Plans an evaluation without loading a weight: samples, tokens and hours, what a GPU must hold, and a prompt."""

from dataclasses import asdict
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.evaluation.benches.benchmarks import load_benchmarks
from phfcli.core.evaluation.sampling import prompt_settings, sampling_of
from phfcli.core.models.architecture.sizes import cache_row_bytes
from phfcli.core.models.description import load_config, load_description, pick_device, pick_dtype, skeleton
from phfcli.core.models.prompts import build_prompts
from phfcli.core.runs.checkpoint_choice import find_target


def plan_evaluation(config: EvalConfig, tokens_per_s: float | None = None) -> dict[str, Any]:
    """What would be evaluated.

    Its tokens are those of samples that are all as long as they may be; so is the sequence whose keys and values are
    counted. An engine holds as many sequences beside the weights as fit.

    Args:
        tokens_per_s: as an earlier evaluation has measured it; the plan then has its hours.

    Raises:
        UserError: for whatever could not be evaluated, as far as it shows before the weights are loaded.
    """
    target = find_target(config.model, config.base)
    benches = load_benchmarks(config.bench, config)
    description = load_description(target.model)
    prompts = build_prompts(description.tokenizer, prompt_settings(config, target))
    plans: list[dict[str, Any]] = [
        {"bench": bench.name, "problems": len(bench.problems), "samples": len(bench.problems) * config.n}
        | {"source": bench.source, **asdict(sampling_of(config, description, prompts, bench))}
        for bench in benches
    ]
    tokens = sum(plan["samples"] * plan["max_new_tokens"] for plan in plans)
    longest = max(
        plan["max_new_tokens"] + max(len(prompts.student(problem.problem)) for problem in bench.problems)
        for plan, bench in zip(plans, benches, strict=True)
    )
    arch = load_config(target.model)
    dtype = pick_dtype(config.dtype, pick_device(config.device))
    memory = {
        "weights": sum(p.numel() * p.itemsize for p in skeleton(arch, dtype).parameters()),
        "one sequence": longest * cache_row_bytes(arch, dtype.itemsize),
    }
    return {
        "model": target.model,
        "adapter": None if target.adapter is None else str(target.adapter),
        "benches": plans,
        "tokens": tokens,
        "hours": None if tokens_per_s is None else tokens / tokens_per_s / 3600,
        "memory_bytes": memory,
        "prompt": prompts.student_text(benches[0].problems[0].problem),
    }
