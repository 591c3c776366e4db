"""A training run on disk, as Python sees it."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import tells_arguments
from phfcli.api.evaluation import Evaluation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from phfcli.core.config import TrainConfig


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of a run's steps, a mapping each; docs/run-files.md says what each number is."""

    lines: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.lines[place]

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each step, which is the index; a metric of each layer stays a list."""
        import pandas as pd

        return pd.DataFrame(list(self.lines)).set_index("step") if self.lines else pd.DataFrame()

    def plot(self) -> "Figure":
        """The curves of training: loss, its terms, gradient, lengths."""
        from phfcli.core.reporting.figures import figure_of
        from phfcli.core.reporting.training_curves import CURVES, training_panels

        return figure_of(list(training_panels({"": self.lines}, CURVES).values()))

    def __repr__(self) -> str:
        return f"StepMetrics({len(self.lines)} steps: {', '.join(self.lines[-1] if self.lines else ())})"

    def _repr_html_(self) -> str:
        return str(self.to_pandas().tail(10).to_html())


@dataclass(frozen=True)
class Run:
    """A training run: its folder, and what is in it. Everything is read anew each time it is asked for."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> "TrainConfig":
        """Its settings."""
        from phfcli.core.runs.run_folder import recorded_config

        return recorded_config(self.folder)

    @property
    def metrics(self) -> StepMetrics:
        """The metrics of every step so far."""
        from phfcli.core.storage.schemas import StepForm, read_forms

        return StepMetrics(tuple(read_forms(self.folder / "metrics.jsonl", StepForm)))

    @property
    def step(self) -> int:
        """The last step that is done; 0 before the first."""
        lines = self.metrics.lines
        return int(lines[-1]["step"]) if lines else 0

    @property
    def done(self) -> bool:
        """Whether it has reached its last step. One that `patience` has ended before has not."""
        return self.step >= self.config.steps

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of its complete checkpoints, oldest first: PEFT adapters, or whole models."""
        from phfcli.core.runs.checkpoints import checkpoints_of

        return [path for _, path in checkpoints_of(self.folder)]

    @property
    def best(self) -> Path | None:
        """The checkpoint that did best in the evaluations during training."""
        link = self.folder / "best"
        return link.resolve() if link.exists() else None

    @property
    def evaluations(self) -> list[Evaluation]:
        """What `evaluate` has found of its checkpoints, one for each benchmark and step."""
        from phfcli.core.runs.layout import evaluation_files

        return [Evaluation.load(path.parent) for path in evaluation_files(self.folder, "summary.json")]

    def plot(self) -> "Figure":
        """The curves of training."""
        return self.metrics.plot()

    def __repr__(self) -> str:
        config = self.config
        loss = f", loss {self.metrics[-1]['loss']:.4f}" if self.step else ""
        return (
            f"Run({str(self.folder)!r}, {config.objective} on {config.model}, step {self.step} of {config.steps}{loss})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.metrics._repr_html_() if self.step else ''}"


@tells_arguments
def load_run(folder: str | Path) -> Run:
    """A run that is on disk.

        run = phf.load_run("runs/phf-embedded-seed0")

    Raises:
        UserError: for a folder that is no run.
    """
    from phfcli.core.errors import UserError
    from phfcli.core.runs.layout import is_run

    if not is_run(Path(folder)):
        raise UserError(f"{folder}: no run is there (it would have a config.yaml)")
    return Run(Path(folder))
