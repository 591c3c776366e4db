"""Whether a first step tells what training gives: `python benchmarks/probe_prediction.py --output FILE.json`.

For each system of studies/methods.yaml that has records: the gradient of its own loss at the untrained weights, on the
rollouts of its first steps, and the first-order change of the reward and of the log-probability of right rollouts, of
other problems, along the update that follows from it: the gradient, or its signs, which are Adam's first update.
Beside it stands what training gave, and over all systems the rank correlation with leave-one-out.
"""

import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from scipy import stats
from torch import Tensor

from phfcli.core.losses.policy_gradient import token_logprobs
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.settings import Source, resolve_train
from phfcli.core.studies.study_file import load_study, runs_of
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer
from phfcli.core.types import Request

MEASURES = ("reward, gradient", "reward, signs", "right rollouts, gradient", "right rollouts, signs")
Gradient = dict[str, Tensor]


def main(
    study: Path = Path("studies/methods.yaml"),
    records: Path = Path("docs/studies/methods"),
    steps: Annotated[int, typer.Option(help="Batches of which the gradient is taken, 32 rollouts each.")] = 2,
    problems: Annotated[int, typer.Option(help="Other problems, on which the reward is measured.")] = 64,
    samples: Annotated[int, typer.Option(help="Rollouts of each of them.")] = 8,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON there.")] = None,
) -> None:
    """Measure every system with a record, and print JSON."""
    rows: list[dict[str, Any]] = []
    rewards: dict[str, tuple[Gradient, Gradient]] = {}
    for run in runs_of(load_study(study)):
        trained = [json.loads(file.read_text()) for file in records.glob(f"{run.model}/{run.system}-seed*.json")]
        if not run.trains or run.seed or not trained:
            continue
        base = json.loads((records / run.model / "base-seed0.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            config = resolve_train([Source(run.name, run.training())])
            trainer = build_trainer(config, Path(folder) / "run", fresh=False)
            gradients_matter(trainer)
            with trainer.rollouts.serving():
                if run.model not in rewards:
                    rewards[run.model] = reward_gradients(trainer, problems, samples)
                own = loss_gradient(trainer, steps)
        gained = fmean(score(record) for record in trained) - score(base)
        told = dict(zip(MEASURES, predictions(own, rewards[run.model]), strict=True))
        rows.append({"base": run.model, "system": run.system, "seeds": len(trained), "gained": gained, **told})
        typer.echo(json.dumps(rows[-1]), err=True)
    found = {"rows": rows, "correlation": {name: correlations(rows, name) for name in MEASURES}}
    print(json.dumps(found, indent=1))
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")


def gradients_matter(trainer: Trainer) -> None:
    """Gives the second factor of each adapter small values: while it is zero, the first one has no gradient."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in trainer.model.trainable().items():
            if "lora_B" in name:
                tensor.copy_(1e-4 * torch.randn(tensor.shape, generator=generator))


def score(record: dict[str, Any]) -> float:
    """Average@n after the last step."""
    last = record["evaluations"][max(record["evaluations"], key=int)]
    return float(next(iter(last.values()))["average"])


def loss_gradient(trainer: Trainer, steps: int) -> Gradient:
    """The gradient of the system's own loss, mean over the batches of its first steps."""
    total: Gradient = {}
    for step in range(1, steps + 1):
        torch.manual_seed(step)
        batches = trainer.collate(trainer.rollouts.samples(step).samples)
        counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
        trainer.gradient(batches, counts, trainer.ranks)
        add(total, trainer, 1 / steps)
    return total


def reward_gradients(trainer: Trainer, problems: int, samples: int) -> tuple[Gradient, Gradient]:
    """The gradients of the expected reward, and of the mean log-probability of a token of right rollouts."""
    source = trainer.rollouts
    asked = [problem for step in range(101, 101 + -(-problems // 32)) for problem in source.curriculum.batch(step)]
    asked = [problem for problem in asked[:problems] for _ in range(samples)]
    requests = [Request(tuple(source.prompts.student(p.problem)), 7_000 + i) for i, p in enumerate(asked)]
    source.engine.update(trainer.model)
    drawn = dict(source.engine.sample(requests, trainer.config.rollout.sampling, logprobs=False))
    completions = [drawn[index] for index in range(len(requests))]
    right = torch.tensor(source._rewards(asked, completions)) > 0
    typer.echo(f"right: {right.float().mean():.3f} of {len(right)}", err=True)
    advantage = right.float() - right.float().reshape(-1, samples).mean(1).repeat_interleave(samples)
    found: tuple[Gradient, Gradient] = ({}, {})
    for weights, total, per_token in ((advantage, found[0], False), (right.float(), found[1], True)):
        for start in range(0, len(requests), 32):
            chosen = [index for index in range(start, start + 32) if weights[index] != 0]
            if not chosen:
                continue
            parts = [Sample(requests[i].prompt_ids, None, completions[i].ids) for i in chosen]
            batch = collate(parts, 2, trainer.model.description.pad_id, trainer.model.device)
            hidden = run_pass(trainer.model, batch.student, batch, ()).hidden
            logs = token_logprobs(hidden, trainer.model.output_head, batch.token_ids)
            rows = batch.tokens[0]
            each = weights[chosen][rows] / (batch.lengths[rows] if per_token else 1)
            trainer.optimizer.zero_grad(set_to_none=True)
            (logs * each).sum().backward()
            add(total, trainer, 1 / len(requests))
    return found


def add(total: Gradient, trainer: Trainer, weight: float) -> None:
    for name, tensor in trainer.model.trainable().items():
        if tensor.grad is not None:
            total[name] = total.get(name, torch.zeros_like(tensor)) + weight * tensor.grad


def predictions(own: Gradient, rewards: tuple[Gradient, Gradient]) -> list[float]:
    """The change of reward and of right rollouts along the update, for each update, over its length: a cosine."""
    found = []
    for reward in rewards:
        names = sorted(own.keys() & reward.keys())
        target = torch.cat([reward[name].flatten() for name in names])
        gradient = torch.cat([own[name].flatten() for name in names])
        updates = (-gradient, -gradient.sign())
        found += [float(torch.nn.functional.cosine_similarity(update, target, dim=0)) for update in updates]
    return found


def correlations(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Spearman's rank correlation of all systems, its p-value, its range with each left out, and that of each base."""

    def rank(kept: list[dict[str, Any]]) -> float:
        return float(stats.spearmanr([row[name] for row in kept], [row["gained"] for row in kept]).statistic)

    left_out = [rank([*rows[:index], *rows[index + 1 :]]) for index in range(len(rows))]
    bases = {base: [row for row in rows if row["base"] == base] for base in dict.fromkeys(row["base"] for row in rows)}
    p_value = float(stats.spearmanr([row[name] for row in rows], [row["gained"] for row in rows]).pvalue)
    each = {base: rank(kept) for base, kept in bases.items()}
    return {"all": rank(rows), "p_value": p_value, "left_out": [min(left_out), max(left_out)], "by_base": each}


if __name__ == "__main__":
    typer.run(main)
