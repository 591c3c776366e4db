"""Plans an evaluation without loading a weight: how many samples of which problems, and a prompt."""

from dataclasses import asdict
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.evaluation.benches.benchmarks import load_benchmarks
from phfcli.core.evaluation.sampling import prompt_settings, sampling_of
from phfcli.core.models.description import load_description
from phfcli.core.models.prompts import build_prompts
from phfcli.core.runs.checkpoint_choice import find_target


def plan_evaluation(config: EvalConfig) -> dict[str, Any]:
    """What would be evaluated.

    Raises:
        UserError: for whatever could not be evaluated, as far as it shows before the weights are loaded.
    """
    target = find_target(config.model, config.base)
    benches = load_benchmarks(config.bench, config)
    description = load_description(target.model)
    prompts = build_prompts(description.tokenizer, prompt_settings(config, target))
    return {
        "model": target.model,
        "adapter": None if target.adapter is None else str(target.adapter),
        "benches": [
            {"bench": bench.name, "problems": len(bench.problems), "samples": len(bench.problems) * config.n}
            | {"source": bench.source, **asdict(sampling_of(config, description, prompts, bench))}
            for bench in benches
        ],
        "prompt": prompts.student_text(benches[0].problems[0].problem),
    }
