"""phfcli's own whole step, by phase: rollouts, teacher's pass, student's pass, loss, backward, update."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness.processes import peak, read_task, reset_peak

from phfcli.core.models.packing import pack
from phfcli.core.models.passes import Sample
from phfcli.core.objectives import contract
from phfcli.core.settings import option_source, resolve_train
from phfcli.core.training import trainer as loop
from phfcli.core.training.setup import build_trainer


class Phases:
    """CPU seconds that calls take, summed by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - started

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        """The step's phases, those inside others taken out of them."""
        t, self.seconds = self.seconds, defaultdict(float)
        loss = t["terms"] - t["teacher"] - t["student"]
        return {
            "rollouts": t["rollouts"],
            "teacher": t["teacher"],
            "student": t["student"],
            "loss": loss,
            "backward": t["gradient"] - t["terms"],
            "update": t["update"],
        }


def main() -> None:
    task = read_task()
    keys = ("model", "data", "objective", "batch_size", "micro_batch_size", "dtype", "rollout.max_new_tokens")
    settings = {key: task[key] for key in keys} | {"rollout.engine": "transformers", "steps": 1 + task["repeats"]}
    config = resolve_train([option_source("the task", key, value) for key, value in settings.items()])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder) / "run", fresh=False)
        phases = Phases()
        phases.watch(trainer.rollouts, "samples", "rollouts")
        for method in ("gradient", "update"):
            phases.watch(trainer, method, method)
        phases.watch(loop, "loss_terms", "terms")
        phases.watch(trainer.teacher, "run_pass", "teacher")
        phases.watch(contract, "run_pass", "student")
        held = reset_peak(trainer.model.network)
        steps = []
        for step in range(1, 2 + task["repeats"]):
            started = time.process_time()
            metrics, samples = trainer.train_step(step)
            seconds = time.process_time() - started
            tokens = sum(len(sample.completion) for sample in samples)
            own = phases.take()
            steps.append(
                {
                    "seconds": seconds,
                    **own,
                    "tokens": tokens,
                    "padding": metrics["padding"],
                    "loss_value": metrics["loss"],
                }
            )
    memory = peak("cpu") - held
    print(json.dumps({"steps": steps[1:], "memory_bytes": memory, "useful": useful_tokens(samples)}))


def useful_tokens(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a step cannot do without, a beginning that several sequences share counted once."""

    def distinct(sequences: Sequence[Sequence[int]]) -> int:
        return len(pack(sequences, torch.device("cpu")).ids)

    privileged = [[*s.teacher_prompt, *s.completion] for s in samples if s.teacher_prompt]
    return {
        "prompts": distinct([s.student_prompt for s in samples]),
        "student": distinct([[*s.student_prompt, *s.completion] for s in samples]),
        "teacher": distinct(privileged) if privileged else 0,
        "completions": [len(s.completion) for s in samples],
    }


if __name__ == "__main__":
    main()
