"""Probing, grading, reporting and exporting from Python: what the commands of these names do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import checks_arguments, data_name, sources_of
from phfcli.api.findings import named_paths
from phfcli.core.errors import UserError, one_of
from phfcli.core.names import CONTEXTS, POLICIES

if TYPE_CHECKING:
    import pandas as pd

    from phfcli.api.arguments import GivenRows
    from phfcli.api.results import Run
    from phfcli.core.analysis.probe import ProbeReport
    from phfcli.core.analysis.regrade import Regrading
    from phfcli.core.config import GradeConfig, TrainConfig


@dataclass(frozen=True)
class Probe:
    """What the teacher's contexts do to a model before any training.

    Attributes:
        core: every reading; `core.as_json()` is what `phf probe --json` prints.
    """

    core: "ProbeReport"

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each context: its score, its gain over plain prompts, its divergence in nats a token, and more."""
        import pandas as pd

        contexts = self.core.as_json()["contexts"]
        return pd.json_normalize([{"context": name} | reading for name, reading in contexts.items()])

    def write(self, path: str | Path) -> None:
        """Writes the page of `phf probe -o`, one HTML file with its charts."""
        from phfcli.core.reporting.probe_page import write_probe

        write_probe(Path(path), self.core)

    def __repr__(self) -> str:
        about = self.core.about
        return f"Probe({about['target']} on {about['problems']} problems, {len(self.core.contexts)} contexts)"

    @property
    def readings(self) -> list[str]:
        """What the figures say, a sentence each."""
        return [reading.text for reading in self.core.readings]

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"


@checks_arguments
def probe(
    model: "Run | str | Path",
    data: "str | Path | GivenRows | None" = None,
    *,
    contexts: Sequence[str] = CONTEXTS[:-2],
    problems: int = 100,
    n: int = 2,
    seed: int | None = None,
    config: "str | Path | Mapping[str, Any] | TrainConfig | Sequence[Any]" = (),
) -> Probe:
    """Find out before any training what the privileged context does to a model.

        found = phf.probe("embedded", problems=50)
        found.readings, found.to_pandas(), found.write("probe.html")

    Args:
        model: a `Run`, or the path of a run, a checkpoint, an adapter or a model, a hub id, or "embedded".
        data: problems with reference solutions, as in `train`.
        contexts: what the teacher is shown: names of `teacher.context`, or texts with {COLUMN}.
        problems: how many of the problems.
        n: rollouts of each problem and context.
        seed: of the rollouts (0).
        config: settings beneath the arguments, as in `train`.

    Raises:
        UserError: for a model, data or a context that cannot be used.
    """
    from phfcli.api.progress import undisturbed
    from phfcli.core.analysis.probe import run_probe
    from phfcli.core.analysis.probe_answers import build_experiment

    sources = sources_of(config, {"data": data_name("data", data), "seed": seed})
    with undisturbed():
        experiment = build_experiment(str(getattr(model, "folder", model)), sources, list(contexts), problems, n)
        return Probe(run_probe(experiment, lambda _: None))


@dataclass(frozen=True)
class Regraded:
    """Saved samples under several grading policies.

    Attributes:
        core: every grade; `core.as_json()` is what `phf grade --json` prints.
    """

    core: "Regrading"

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each policy, and for each score that the file brings: average, standard error, count by status."""
        import pandas as pd

        return pd.json_normalize(self.core.as_json()["scores"])

    def differing(self) -> "pd.DataFrame":
        """A row for each sample on which two policies differ, with the status and the answer under each."""
        import pandas as pd

        return pd.json_normalize(self.core.differing())

    def __repr__(self) -> str:
        scores = ", ".join(f"{row.name} {100 * row.average:.1f} %" for row in self.core.rows)
        return f"Regraded({len(self.core.texts)} samples: {scores})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"


@checks_arguments
def grade(
    file: str | Path,
    policies: Sequence[str] = POLICIES,
    *,
    config: "str | Path | Mapping[str, Any] | GradeConfig | Sequence[Any]" = (),
) -> Regraded:
    """Grade saved samples again under named policies: those of `evaluate`, or of another tool.

        graded = phf.grade("details_aime24.parquet", ["phf", "math-verify"])
        graded.to_pandas(), graded.differing()

    Args:
        file: samples.jsonl, the folder of an evaluation, or another tool's file; docs/grading.md names the forms.
        policies: "phf", "math-verify" and others; all by default.
        config: settings such as {"columns.answer": "gold"}.

    Raises:
        UserError: for a file that cannot be read, or a policy that does not exist.
    """
    from phfcli.core.analysis.regrade import regrade
    from phfcli.core.analysis.saved_samples import read_samples
    from phfcli.core.config import GradeConfig
    from phfcli.core.settings import resolve

    chosen = [one_of("policies", name, POLICIES) for name in dict.fromkeys(policies)]
    if not chosen:
        raise UserError(f"policies: name at least one of {', '.join(POLICIES)}")
    settings = resolve(GradeConfig, sources_of(config, {}))
    return Regraded(regrade(read_samples(Path(file), settings), chosen, settings.grader_timeout_s))


@checks_arguments
def report(
    runs: "Sequence[Run | str | Path] | Mapping[str, Run | str | Path]",
    output: str | Path = "report.html",
    *,
    title: str = "A study of hidden flow",
    unequal: bool = False,
) -> Path:
    """Put runs on one page that needs no network: results, curves, hidden flow, every problem, settings.

        page = phf.report({"OPSD": a, "PHF": b}, "study.html")

    Args:
        runs: runs, or the folders of evaluated models; a mapping gives them names.
        output: the page, an .html file.
        title: the title of the page.
        unequal: compare also where prompts or sampling differ.

    Returns:
        The path of the page.

    Raises:
        UserError: for what is neither a run nor evaluated, or evaluations that do not compare.
    """
    from phfcli.core.reporting.report_page import write_report

    if not runs:
        raise UserError("runs: give them as one list: phf.report([a, b])")
    write_report(Path(output), named_paths(runs), title, unequal)
    return Path(output)


@checks_arguments
def export(target: "Run | str | Path", merged: str | Path, *, base: str | Path | None = None) -> Path:
    """Fold a checkpoint's adapter into its base model and write a plain model folder.

        folder = phf.export(run, "merged")

    Args:
        target: a `Run`, or the path of a run, a checkpoint or an adapter.
        merged: a new folder for the whole model.
        base: the model under the adapter, if not the one that the adapter names.

    Returns:
        The folder.

    Raises:
        UserError: for a plain model, an adapter of another model, or a folder that is not empty.
    """
    from phfcli.api.progress import undisturbed
    from phfcli.core.analysis.publish import export_merged

    with undisturbed():
        export_merged(str(getattr(target, "folder", target)), Path(merged), None if base is None else str(base))
    return Path(merged)
