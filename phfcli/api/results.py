"""The results of the Python interface: a training run on disk, its metrics, and the scores of an evaluation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import checks_arguments
from phfcli.core.errors import UserError, with_error

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from phfcli.core.config import TrainConfig

_COLUMNS = ("bench", "problems", "n", "average", "stderr", "sampling_stderr", "greedy", "majority", "truncated_share")
_COUNTS = ("no_answer", "grader_failures", "mean_tokens", "tokens_per_s", "step", "folder")


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one benchmark or several; fractions are 0..1.

    Attributes:
        summaries: the summary.json of each benchmark.
    """

    summaries: tuple[dict[str, Any], ...]

    @classmethod
    @checks_arguments
    def load(cls, *folders: str | Path) -> "Evaluation":
        """Reads evaluations from their folders."""
        from phfcli.core.runs.summaries import read_summary

        if not folders:
            raise UserError("folders: load() takes the folder of an evaluation, or several")
        return cls(tuple({**read_summary(Path(f) / "summary.json"), "folder": str(f)} for f in folders))

    def __getitem__(self, bench: str) -> "Evaluation":
        """The evaluation of one of its benchmarks."""
        return Evaluation(tuple(summary for summary in self.summaries if summary["bench"] == bench) or _missing(bench))

    @property
    def average(self) -> float:
        """Average@n; of several benchmarks the mean over them."""
        return math.fsum(summary["average"] for summary in self.summaries) / len(self.summaries)

    @property
    def stderr(self) -> float | None:
        """The standard error of `average` over problems; None for a single problem."""
        errors = [summary.get("stderr") for summary in self.summaries]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) / len(errors) if len(known) == len(errors) else None

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each benchmark: scores with their errors, pass_at_K for each K, counts, lengths, speed, folder."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    **{name: summary.get(name) for name in _COLUMNS},
                    **{f"pass_at_{k}": value for k, value in (summary.get("pass_at_k") or {}).items()},
                    **{name: summary.get(name) for name in _COUNTS},
                }
                for summary in self.summaries
            ]
        )

    def samples(self) -> "pd.DataFrame":
        """A row for each sample: bench, problem, sample, status, correct, answer, gold, tokens, seed, text.

        In the order of the benchmark, not in that in which samples were finished.
        """
        import pandas as pd

        from phfcli.core.storage.schemas import SampleForm, read_forms

        rows = [
            {"bench": summary["bench"], **{key: value for key, value in line.items() if key not in ("sum", "seconds")}}
            for summary in self.summaries
            for line in read_forms(Path(summary["folder"]) / "samples.jsonl", SampleForm)
        ]
        order = {key: number for number, key in enumerate(self._problems())}
        rows.sort(key=lambda row: (order.get((row["bench"], row["problem"]), len(order)), row["sample"]))
        frame = pd.DataFrame(rows)
        frame.insert(3, "correct", frame["status"] == "correct")
        return frame

    def _problems(self) -> Iterator[tuple[str, str]]:
        """(benchmark, problem) in the benchmark's order, as samples.parquet has it."""
        import pandas as pd

        for summary in self.summaries:
            table = Path(summary["folder"]) / "samples.parquet"
            for problem in pd.read_parquet(table, columns=["problem"])["problem"].unique() if table.is_file() else ():
                yield summary["bench"], problem

    def problems(self) -> "pd.DataFrame":
        """A row for each problem: bench, problem, gold, samples, correct (their share), truncated, mean_tokens.

        In the order of the benchmark.
        """
        drawn = self.samples()
        drawn["truncated"] = drawn["status"] == "truncated"
        return drawn.groupby(["bench", "problem"], sort=False, as_index=False).agg(
            gold=("gold", "first"),
            samples=("sample", "count"),
            correct=("correct", "mean"),
            truncated=("truncated", "mean"),
            mean_tokens=("tokens", "mean"),
        )

    def plot(self) -> "Figure":
        """The average on each benchmark with its standard error."""
        from phfcli.core.analysis.compare import compare
        from phfcli.core.evaluation.saved_evaluations import load_evaluations
        from phfcli.core.reporting.figures import view_figure

        folders = [str(summary["folder"]) for summary in self.summaries]
        return view_figure("runs", compare(load_evaluations(folders, [])))

    def __repr__(self) -> str:
        parts = [f"{s['bench']} {with_error(s['average'], s.get('stderr'))} %" for s in self.summaries]
        first = self.summaries[0]
        step = f" step {first['step']}" if first.get("step") else ""
        return f"Evaluation({first['target']}{step}, n {first.get('n')}: {', '.join(parts)})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"


def _missing(bench: str) -> tuple[dict[str, Any], ...]:
    raise KeyError(bench)


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of a run's steps, a mapping for each step; docs/run-files.md describes every metric."""

    lines: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.lines[index]

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each step, with the step as index; a metric of several layers stays a list."""
        import pandas as pd

        return pd.DataFrame(list(self.lines)).set_index("step") if self.lines else pd.DataFrame()

    def plot(self) -> "Figure":
        """The curves of training: loss, its terms, gradient, lengths."""
        from phfcli.core.reporting.figures import figure_of
        from phfcli.core.reporting.training_charts import training_panels
        from phfcli.core.step_metrics import CURVES

        return figure_of(list(training_panels({"": self.lines}, CURVES).values()))

    def __repr__(self) -> str:
        return f"StepMetrics({len(self.lines)} steps: {', '.join(self.lines[-1] if self.lines else ())})"

    def _repr_html_(self) -> str:
        return str(self.to_pandas().tail(10).to_html())


@dataclass(frozen=True)
class Run:
    """A training run: its folder and its content. Every property reads the files anew."""

    folder: Path

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | Path):
            raise UserError(f"folder: Run() takes a path, and got {self.folder!r:.60}")
        object.__setattr__(self, "folder", Path(self.folder))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> "TrainConfig":
        """Its settings."""
        from phfcli.core.runs.folder import recorded_config

        return recorded_config(self.folder)

    @property
    def metrics(self) -> StepMetrics:
        """The metrics of every step so far."""
        from phfcli.core.storage.schemas import StepForm, read_forms

        return StepMetrics(tuple(read_forms(self.folder / "metrics.jsonl", StepForm)))

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        lines = self.metrics.lines
        return int(lines[-1]["step"]) if lines else 0

    @property
    def done(self) -> bool:
        """Whether the run has reached its last step; false where `patience` has ended it earlier."""
        return self.step >= self.config.steps

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of its complete checkpoints, oldest first: PEFT adapters, or whole models."""
        from phfcli.core.runs.folder import checkpoints_of

        return [path for _, path in checkpoints_of(self.folder)]

    @property
    def best(self) -> Path | None:
        """The best checkpoint by the evaluations during training; None without any."""
        link = self.folder / "best"
        return link.resolve() if link.exists() else None

    @property
    def evaluations(self) -> list[Evaluation]:
        """The saved evaluations of its checkpoints, one for each benchmark and step."""
        from phfcli.core.runs.folder import evaluation_files

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


@checks_arguments
def load_run(folder: str | Path) -> Run:
    """The run of a folder.

        run = phf.load_run("runs/phf-embedded-seed0")

    Raises:
        UserError: for a folder without a run.
    """
    from phfcli.core.runs.folder import is_run

    if not is_run(Path(folder)):
        raise UserError(f"{folder}: no run is there (it would have a config.yaml)")
    return Run(Path(folder))
