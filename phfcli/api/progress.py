"""Progress bars of training and evaluation, on a terminal or in a notebook."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

    from phfcli.core.evaluation.evaluator import EvaluationProgress


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it transformers shows no progress bars; afterwards the caller's random states are what they were."""
    from transformers.utils import logging

    from phfcli.core.models.device import pick_device, same_random_state

    shown, state = logging.is_progress_bar_enabled(), random.getstate()
    logging.disable_progress_bar()
    try:
        with same_random_state(pick_device("auto")):
            yield
    finally:
        random.setstate(state)
        if shown:
            logging.enable_progress_bar()


class Bar:
    """Several progress bars, each with a name; nothing is shown where `shown` is false."""

    def __init__(self, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), text)
        self._bars = Progress(*columns, console=Console(stderr=True, quiet=not shown, highlight=False))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def write_line(self, line: str) -> None:
        """Writes a line above the bars."""
        self._bars.console.print(line, markup=False, soft_wrap=True)

    def move(self, name: str, done: int, total: int, text: str) -> None:
        """Moves the bar of that name, and adds it the first time."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(text)
        self._bars.update(self._tasks[name], completed=done, total=total, description=text)


class StepBar(Bar):
    """The bar of a training run."""

    def show(self, metrics: Mapping[str, Any], steps: int) -> None:
        """Shows the loss, what a user's own objective has logged, and the speed."""
        from phfcli.core.step_metrics import own_metrics

        logged = "".join(f"  {name} {metrics[name]:.4f}" for name in own_metrics([[metrics]]))
        text = f"loss {metrics['loss']:.4f}{logged}  {metrics['tokens_per_s']:,.0f} tok/s"
        self.move("steps", metrics["step"], steps, text)


class SampleBar(Bar):
    """The bars of an evaluation, one for each benchmark."""

    def show(self, running: "EvaluationProgress") -> None:
        """Shows a benchmark's finished samples and its running average."""
        text = f"{running.bench}  {100 * running.average:.1f} %"
        self.move(running.bench, running.done, running.total, text)
