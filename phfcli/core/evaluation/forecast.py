"""Forecasts an evaluation without loading weights: samples, tokens, hours, memory, and the first prompt."""

from dataclasses import asdict
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import reached
from phfcli.core.evaluation.benchmarks import load_benchmarks
from phfcli.core.evaluation.evaluator import describe, target_of
from phfcli.core.evaluation.samples import prompt_settings, sampling_of
from phfcli.core.models.description import (
    cache_row_bytes,
    load_config,
    skeleton,
    wants_gpu,
)
from phfcli.core.models.device import pick_device, pick_dtype, planned_for_gpu
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.weights import weights_memory
from phfcli.core.rollouts.single import by_chat


def plan_evaluation(config: EvalConfig, tokens_per_s: float | None = None) -> dict[str, Any]:
    """The plan of an evaluation. Parts that need the hub while it does not answer are missing, and named in `gaps`.

    Tokens and the memory of one sequence assume that every sample reaches the token limit. An engine holds as many
    sequences beside the weights as fit into memory.

    Args:
        tokens_per_s: the speed that an earlier evaluation measured; with it the plan has hours.

    Raises:
        UserError: anything that `evaluate` would refuse before it loads the weights.
    """
    gaps: list[str] = []
    target = target_of(config)
    benches = reached(lambda: load_benchmarks(config.bench, config), gaps) or []
    description = reached(lambda: describe(config, target), gaps)
    rows: list[dict[str, Any]] = [
        {"bench": bench.name, "problems": len(bench.problems), "samples": len(bench.problems) * config.n}
        | {"source": bench.source}
        for bench in benches
    ]
    plan = {
        "model": target.model,
        "adapter": None if target.adapter is None else str(target.adapter),
        "benches": rows,
        "gaps": gaps,
    }
    if description is None or not benches:
        return plan | dict.fromkeys(("tokens", "hours", "memory_bytes", "prompt"))
    prompts = build_prompts(description.tokenizer, prompt_settings(config, target), vocabulary=description.vocabulary)
    for row, bench in zip(rows, benches, strict=True):
        row |= asdict(sampling_of(config, description, prompts, bench))
    tokens = sum(row["samples"] * row["max_new_tokens"] for row in rows)
    longest = max(
        row["max_new_tokens"] + max(len(prompts.student(problem.problem)) for problem in bench.problems)
        for row, bench in zip(rows, benches, strict=True)
    )
    prompt = prompts.student_text(benches[0].problems[0].problem)
    hours = None if tokens_per_s is None else tokens / tokens_per_s / 3600
    if by_chat(config):
        return plan | {"tokens": tokens, "hours": hours, "memory_bytes": None, "prompt": prompt}
    arch = load_config(target.model)
    with planned_for_gpu(wants_gpu(arch)):
        dtype = pick_dtype(config.dtype, pick_device(config.device))
    return plan | {
        "tokens": tokens,
        "hours": hours,
        "memory_bytes": {
            "weights": weights_memory(target.model, skeleton(arch, dtype), dtype, config.quantization, mapped=False),
            "one sequence": longest * cache_row_bytes(arch, dtype.itemsize),
        },
        "prompt": prompt,
    }
