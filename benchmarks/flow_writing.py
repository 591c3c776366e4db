"""What saving hidden flows costs a training run: `python benchmarks/flow_writing.py [--steps 25]`.

Trains the embedded model with the default settings, and times what a checkpoint does for its flow: the two passes that
record the states, and the writing of the file. Prints JSON, with both as shares of the time of the steps in between.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from phfcli.core.runs.flows import record_flow, save_flow
from phfcli.core.settings import option_source, resolve_train
from phfcli.core.training.setup import build_trainer


def main(steps: int = 25, repeats: int = 5) -> None:
    """Time some steps, then the recording and the writing after the last one."""
    config = resolve_train([option_source("steps", "steps", steps), option_source("saved", "flow.saved_samples", 0)])
    with TemporaryDirectory() as place:
        trainer = build_trainer(config, Path(place) / "run", fresh=True)
        taken = []
        for step in range(1, steps + 1):
            metrics, samples = trainer.train_step(step)
            taken.append(metrics["seconds"])
        recording, writing = [], []
        for repeat in range(repeats):
            started = time.perf_counter()
            flow = record_flow(trainer.model, trainer.teacher, samples[:8], config.flow.positions)
            recorded = time.perf_counter()
            path = save_flow(Path(place), repeat, flow)
            recording.append(recorded - started)
            writing.append(time.perf_counter() - recorded)
        size = path.stat().st_size
    every, step = config.checkpoint_every, statistics.median(taken)
    record, write = statistics.median(recording), statistics.median(writing)
    result = {
        "step_seconds": round(step, 4),
        "rollouts_saved": 8,
        "file_bytes": size,
        "recording_seconds": round(record, 4),
        "writing_seconds": round(write, 4),
        "checkpoint_every": every,
        "writing_share_of_a_step": round(write / step, 4),
        "recording_and_writing_share_of_training": round((record + write) / (every * step), 5),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
