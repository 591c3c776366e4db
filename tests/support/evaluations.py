"""Evaluations as `phf eval` leaves them, written without sampling anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from phfcli.core.runs.folder import evaluation_folder

SOME = {"p": [1, 0], "q": [0, 0], "r": [1, 1]}  # three problems, two samples each

SETTINGS: dict[str, Any] = {
    "model": {"name": "some/model"},
    "adapter_sha256": "a" * 64,
    "dtype": "torch.float32",
    "engine": "transformers",
    "bench_sha256": "b" * 64,
    "seed": 0,
    "prompt": {"template": "{problem}", "thinking": True},
    "sampling": {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_new_tokens": 100},
}


def evaluation(
    run: Path,
    correct: Mapping[str, Sequence[int]],
    *,
    bench: str = "aime",
    step: int | None = 100,
    answer: str = "7",
    answers: Mapping[str, Sequence[str]] | None = None,
    tokens: int = 10,
    greedy: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """One evaluation in a run's folder: 0 or 1 of each sample by problem. A config makes the folder a run.

    answers: of each sample by problem, where they are not all the same.
    greedy: 0 or 1 of each problem's greedy completion.
    """
    n = len(next(iter(correct.values())))
    folder = evaluation_folder(run, step, f"{bench}-n{n}")
    folder.mkdir(parents=True)
    means = [sum(row) / n for row in correct.values()]
    own = {**SETTINGS, "n": n, **settings}
    summary = {
        "target": run.name,
        "bench": bench,
        "step": step,
        "n": n,
        "problems": len(correct),
        "average": sum(means) / len(means),
        "stderr": 0.1,
        "pass_at_k": {str(n): 0.9},
        "majority": 0.5,
        "truncated": 0,
        "bench_sha256": own["bench_sha256"],
        "sampling": own["sampling"],
    }
    if greedy is not None:
        summary["greedy"] = sum(greedy.values()) / len(greedy)
        drawn = [
            {"problem": problem, "sample": 0, "status": "correct" if right else "wrong", "answer": answer}
            for problem, right in greedy.items()
        ]
        (folder / "greedy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in drawn))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "settings.json").write_text(json.dumps(own))
    lines = [
        {"problem": problem, "sample": i, "status": "correct" if right else "wrong", "gold": "7"}
        | {"answer": answers[problem][i] if answers else answer, "tokens": tokens}
        for problem, row in correct.items()
        for i, right in enumerate(row)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config is not None:
        (run / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    return folder
