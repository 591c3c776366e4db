"""phfcli's own update: collate, both passes, objective, backward, clip, AdamW, teacher."""

import json
import tempfile
from pathlib import Path

from harness.processes import measure, read_task

from phfcli.core.models.passes import Sample
from phfcli.core.settings import option_source, resolve_train
from phfcli.core.training.setup import build_trainer


def main() -> None:
    task = read_task()
    settings = {
        "model": task["model"],
        "data": "embedded",
        "objective": task["objective"],
        "device": task["device"],
        "rollout.engine": "transformers",
        "rollout.max_new_tokens": 1,
        "micro_batch_size": task["micro_batch_size"],
        **task.get("settings", {}),
    }
    config = resolve_train([option_source("the task", key, value) for key, value in settings.items()])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder) / "run", fresh=False)
    samples = [Sample(**rollout) for rollout in task["rollouts"]]

    def update() -> float:
        batches = trainer.collate(samples)
        counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
        loss, grad_norm, _ = trainer.gradient(batches, counts, trainer.ranks)
        trainer.update(grad_norm)
        return loss

    print(json.dumps(measure(update, trainer.model.network, task["repeats"])))


if __name__ == "__main__":
    main()
