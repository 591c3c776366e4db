"""The hidden flow of right and wrong rollouts: `python benchmarks/flow_by_answer.py FLOWS --model ID --data FILE`.

FLOWS is a file that `phf collect ID --data FILE -o FLOWS` has written. Each rollout is graded by
the answer of its problem, which is found by its prompt. Prints JSON; what it found is in docs/study-real/NOTES.md.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from phfcli.core.analysis.diagnose import PARTS, FlowTotals
from phfcli.core.grading.policies import build_grader
from phfcli.core.losses.flow import entropy, layer_energy_share, measure_rollout
from phfcli.core.models.description import load_description
from phfcli.core.models.prompts import build_prompts
from phfcli.core.runs.flows import FlowFile, open_flow
from phfcli.core.runs.problems import load_problems
from phfcli.core.settings import option_source, resolve_train
from phfcli.core.training.rollouts import rewards_of
from phfcli.core.types import Completion


def main(
    flows: Path,
    model: Annotated[str, typer.Option(help="Whose tokenizer and prompts the rollouts have.")],
    data: Annotated[str, typer.Option(help="The problems, with their answers.")],
) -> None:
    """Measure all rollouts, the right and the wrong ones."""
    config = resolve_train([option_source("--model", "model", model), option_source("--data", "data", data)])
    description = load_description(model)
    prompts = build_prompts(description.tokenizer, config.prompt)
    problems = {tuple(prompts.student(problem.problem)): problem for problem in load_problems(config)}
    flow = open_flow(flows)
    unknown = sum(rollout.student_prompt not in problems for rollout in flow.rollouts)
    if unknown:
        words = f"{unknown} of {len(flow.rollouts)} rollouts answer no problem of {data}"
        raise typer.BadParameter(f"--data: {words}; give the problems that they were drawn for")
    asked = [problems[rollout.student_prompt] for rollout in flow.rollouts]
    drawn = [Completion(rollout.completion, (), "stop") for rollout in flow.rollouts]
    with build_grader(config.grader) as grader:
        right = [reward > 0 for reward in rewards_of(grader, description, asked, drawn)]
    parts = {"all": [True] * len(right), "right": right, "wrong": [not own for own in right]}
    found = {name: measures(flow, chosen) for name, chosen in parts.items()}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def measures(flow: FlowFile, chosen: list[bool]) -> dict[str, Any]:
    """What the chosen rollouts show: how much energy, and where in depth and along the rollout it lies."""
    own = replace(flow, counts=[count if kept else 0 for count, kept in zip(flow.counts, chosen, strict=True)])
    totals = FlowTotals(len(flow.layers), "loss", PARTS)
    for rollout in own.rollout_states():
        totals.add(measure_rollout(rollout.student, rollout.teacher), rollout)
    energies = totals.energies["loss"] / totals.count
    share = layer_energy_share(energies)
    along = totals.map().nan_to_num().sum(0)
    return {
        "rollouts": totals.count,
        "mean_energy": round(energies.mean().item(), 5),
        "entropy_nats": round(float(entropy(share)), 3),
        "largest_layer": flow.layers[int(share.argmax())],
        "largest_share": round(share.max().item(), 4),
        "last_third_share": round(share[-(len(share) // 3) :].sum().item(), 4),
        "along_the_rollout": [round(value, 4) for value in (along / along.sum()).tolist()],
    }


if __name__ == "__main__":
    typer.run(main)
