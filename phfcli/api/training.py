"""Training from Python: a whole run, or its steps one by one."""

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phfcli.api.arguments import answering_other_names, checks_arguments, data_name, sources_of
from phfcli.api.results import Run

if TYPE_CHECKING:
    from phfcli.api.arguments import GivenRows
    from phfcli.core.config import TrainConfig
    from phfcli.core.settings import Source
    from phfcli.core.training.start import Running

Metrics = dict[str, Any]


@checks_arguments
def train(
    model: str | Path | None = None,
    data: "str | Path | GivenRows | None" = None,
    objective: str | None = None,
    *,
    alpha: float | None = None,
    teacher: str | None = None,
    engine: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    eval_every: int | None = None,
    eval_bench: "str | Path | GivenRows | None" = None,
    patience: int | None = None,
    output_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep: int | None = None,
    report_to: Sequence[str] | None = None,
    config: "str | Path | Mapping[str, Any] | TrainConfig | Sequence[Any]" = (),
    resume: bool | Literal["must"] = False,
    force: bool = False,
    progress: bool = True,
    on_step: Callable[[Metrics], None] | None = None,
) -> Run:
    """Train a model on its own rollouts, with itself as the teacher that has seen the reference solution.

        run = phf.train(model="embedded", objective="phf", steps=20)
        run = phf.train("Qwen/Qwen3-4B", "problems.jsonl", config={"optim.lr": 1e-5, "batch_size": 16})
        run = phf.train(data=frame)  # a DataFrame with the columns problem and solution
        run = phf.train(config=["qwen3-4b", "opsd"], seed=1)

    An interrupt (Ctrl-C, or a notebook's stop button) ends the run after its present step with a checkpoint; a second
    one ends it at once. `phf.train(output_dir=run.folder, resume=True)` goes on from the newest checkpoint.

    Args:
        model: a hub id, a folder, or "embedded" (the default), a small model that trains on any CPU.
        data: problems with reference solutions: a hub id, a .jsonl, .csv or .parquet file, "embedded", or rows: a
            DataFrame, a Dataset or a list of mappings, which are kept in runs/data.
        objective: "phf" (the default), "opsd", "sft", "grpo" and others, or one that was registered.
        alpha: the weight of the hidden-flow term (0.05).
        teacher: "ema" (the default), "fixed", "online", "synced", "external", or one that was registered.
        engine: what draws rollouts: "auto", "transformers", "vllm", the URL of a server, or one that was registered.
        steps: the last step (100). The learning rate falls over 30 epochs, or over `steps` where these are more.
        seed: the seed of every random choice (0).
        eval_every: evaluate `eval_bench`, and save a checkpoint, every so many steps.
        eval_bench: a benchmark's name or file, or rows as for `data`.
        patience: stop after so many evaluations without a better one.
        output_dir: the folder of the run; None is runs/OBJECTIVE-MODEL-seedN, or the first of -2, -3 that is free.
        checkpoint_every: steps between checkpoints (25).
        keep: how many of the newest checkpoints are kept; None is all.
        report_to: trackers: "tensorboard", "wandb", "trackio", or one that was registered.
        config: settings beneath the arguments: a recipe's name, a YAML file, a mapping with dotted keys, a
            `TrainConfig`, or a sequence of these, of which later ones win. `phf config schema` prints every key.
        resume: go on with the run in `output_dir`, or begin it where there is none; "must" refuses to begin one.
        force: with `resume`, go on under other settings too.
        progress: show a bar, on a terminal or in a notebook.
        on_step: called with the metrics of each step.

    Returns:
        The run, which is also on disk.

    Raises:
        UserError: for settings, a model or data that cannot be used; nothing has been written then.
        FaultError: for a fault of the machine, such as a full disk; the last checkpoint is intact.
    """
    given = {
        "model": model,
        "data": data_name("data", data),
        "objective": objective,
        "alpha": alpha,
        "teacher": teacher,
        "engine": engine,
        "steps": steps,
        "seed": seed,
        "eval_every": eval_every,
        "eval_bench": data_name("eval_bench", eval_bench),
        "patience": patience,
        "output_dir": output_dir,
        "checkpoint_every": checkpoint_every,
        "keep": keep,
        "report_to": report_to,
    }
    steps_ = Training(sources_of(config, given), resume, force, progress, interruptible=True)
    for metrics in steps_:
        if on_step is not None:
            on_step(metrics)
    return steps_.run


@checks_arguments
def training(
    config: "str | Path | Mapping[str, Any] | TrainConfig | Sequence[Any]" = (),
    *,
    output_dir: str | Path | None = None,
    resume: bool | Literal["must"] = False,
    force: bool = False,
) -> "Training":
    """The steps of a run one by one, for a loop or a scheduler of your own.

        for metrics in (steps := phf.training({"model": "embedded", "steps": 50})):
            if metrics["loss"] < 0.002:
                steps.stop()  # saves a checkpoint, then the loop ends
        run = steps.run

    The model is loaded at the first step. After a loop that is left early, `resume` continues the run from its newest
    checkpoint.

    Args:
        config, output_dir, resume, force: as for `train`.

    Raises:
        UserError: at the first step, for settings, a model or data that cannot be used.
    """
    return Training(sources_of(config, {"output_dir": output_dir}), resume, force)


class Training:
    """Iterates over the metrics of each step; see `training`."""

    def __init__(
        self,
        sources: "list[Source]",
        resume: bool | Literal["must"],
        force: bool,
        progress: bool = False,
        interruptible: bool = False,
    ) -> None:
        self._sources, self._resume, self._force = sources, resume, force
        self._progress, self._interruptible = progress, interruptible
        self._running: Running | None = None
        self._folder: Path | None = None

    def __iter__(self) -> Iterator[Metrics]:
        from phfcli.api.progress import StepBar, undisturbed
        from phfcli.core.training.start import running

        free = not self._resume and not any("output_dir" in source.tree for source in self._sources)
        with answering_other_names(), ExitStack() as stack:
            stack.enter_context(undisturbed())
            bar = stack.enter_context(StepBar(self._progress))
            stopping = [signal.SIGTERM, *([signal.SIGINT] if self._interruptible else [])]
            opened = running(self._sources, self._resume, self._force, _warn, bar.write_line, free, stopping)
            self._running = stack.enter_context(opened)
            trainer = self._running.trainer
            self._folder = trainer.folder
            for metrics in self._running.steps():
                bar.show(metrics, trainer.config.steps)
                yield metrics

    @property
    def run(self) -> Run:
        """The run, from its first step on."""
        if self._folder is None:
            raise RuntimeError("the run has a folder from its first step on")
        return Run(self._folder)

    def stop(self) -> None:
        """Ends the run after its present step, with a checkpoint."""
        if self._running is not None:
            self._running.trainer.stopping = True


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)
