"""The matrix products of a step and nothing else, at the shapes of its useful tokens.

Rollouts: every prompt, then each token of the rows that have not ended, the adapter folded in. Teacher: its tokens, the
adapter folded in as well. Student: forward, the gradient to the inputs, and the adapter's six products of each layer.
Head: both readers' completion tokens and the gradient to the student's. A beginning that several sequences share is
computed once.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence

import torch
from harness.processes import read_task
from torch import Tensor
from transformers import AutoModelForCausalLM

RANK = 64


def main() -> None:
    task = read_task()
    dtype = getattr(torch, task["dtype"])
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype)
    head = model.get_output_embeddings().weight.detach()
    layers = [m.weight.detach() for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    useful = task["useful"]
    completions = useful["completions"]
    live = Counter(sum(length > t for length in completions) for t in range(1, max(completions)))
    steps = []
    with torch.no_grad():
        for _ in range(1 + task["repeats"]):
            tokens = sum(completions)
            steps.append(
                {
                    "rollouts": products(layers, useful["prompts"])
                    + products([head], len(completions))
                    + sum(count * products([*layers, head], rows) for rows, count in live.items()),
                    "teacher": products(layers, useful["teacher"]),
                    "student": products(layers, useful["student"]) + adapters(layers, useful["student"], 2),
                    "loss": products([head], 2 * tokens) + gradients([head], tokens),
                    "backward": gradients(layers, useful["student"]) + adapters(layers, useful["student"], 4),
                }
            )
            steps[-1]["seconds"] = sum(steps[-1].values())
    print(json.dumps({"steps": steps[1:]}))


def products(weights: Sequence[Tensor], rows: int) -> float:
    """Seconds of x W^T."""
    inputs = {w.shape[1]: w.new_ones(rows, w.shape[1]) for w in weights}
    started = time.process_time()
    for w in weights:
        inputs[w.shape[1]] @ w.T
    return time.process_time() - started


def gradients(weights: Sequence[Tensor], rows: int) -> float:
    """Seconds of g W."""
    outputs = {w.shape[0]: w.new_ones(rows, w.shape[0]) for w in weights}
    started = time.process_time()
    for w in weights:
        outputs[w.shape[0]] @ w
    return time.process_time() - started


def adapters(weights: Sequence[Tensor], rows: int, count: int) -> float:
    """Seconds of the products with A and B, half of them each."""
    sizes = [size for w in weights for size in w.shape]
    inputs = {size: (weights[0].new_ones(rows, size), weights[0].new_ones(size, RANK)) for size in set(sizes)}
    started = time.process_time()
    for size in sizes * (count // 2):
        x, a = inputs[size]
        x @ a
    return time.process_time() - started


if __name__ == "__main__":
    main()
