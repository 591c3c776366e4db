"""What a report says in sentences: the verdict of a comparison, and what stood out in training."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from phfcli.core.analysis.arms import Arm
from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.errors import UserError
from phfcli.core.models.passes import Sample
from phfcli.core.reporting.run_summaries import RunSummary
from phfcli.core.reporting.tables import percent, with_error
from phfcli.core.runs.folder import step_name
from phfcli.core.storage.schemas import AlarmForm, StepForm, ValidationForm, read_forms
from phfcli.core.training.alarms import FILE as ALARMS
from phfcli.core.training.parts import TrainingParts
from phfcli.core.training.trackers import Cell, Findings, Pixels, TrackedTable
from phfcli.core.training.validation import FILE as EVALUATIONS

_LEVEL = 0.05
_NAMED = 3  # pairs that are named before the rest is counted


def verdict(comparison: Comparison, runs: Sequence[RunSummary]) -> list[str]:
    """At most three sentences; one that there is nothing to say for is left out."""
    return [sentence for sentence in (_scores(comparison), _differences(comparison), _health(runs)) if sentence]


def _scores(comparison: Comparison) -> str:
    """The best arm of each benchmark, those that are level with it, and the others' range."""
    told = []
    for bench in comparison.benches:
        arms = [arm for arm in comparison.arms if bench in arm.benches]
        *others, best = sorted(arms, key=lambda arm: arm.average(bench)[0])
        level = [arm for arm in others if _percent(arm, bench) == _percent(best, bench)]
        names = [f"{arm.name} of {arm.model}" if len(comparison.models) > 1 else arm.name for arm in (best, *level)]
        behind = others[: len(others) - len(level)]
        span = " to ".join(dict.fromkeys(_percent(arm, bench) for arm in (*behind[:1], *behind[-1:])))
        best_told = f"{' and '.join(names)} {_percent(best, bench)}" + (" each" if level else "")
        told.append(f"on {bench} {best_told}" + (f", the rest {span}" if behind else ""))
    return f"Share of right samples: {'; '.join(told)}." if told else ""


def _differences(comparison: Comparison) -> str:
    """Which differences have p at most 0.05 after Holm's correction."""
    if not comparison.pairs:
        return ""
    apart = [pair for pair in comparison.pairs if pair.p_holm <= _LEVEL]
    if not apart:
        return "No two of them are told apart (p at most 0.05 after Holm's correction)."
    more = f", and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
    several = len({pair.model for pair in comparison.pairs}) > 1
    named = "; ".join(_named(pair, several) for pair in apart[:_NAMED])
    return f"Told apart (p at most 0.05 after Holm's correction): {named}{more}, of {len(comparison.pairs)} compared."


def _named(pair: Pair, several: bool) -> str:
    difference = pair.result.difference
    above, below = (pair.b, pair.a) if difference > 0 else (pair.a, pair.b)
    of = f" of {pair.model}" if several else ""
    points = f"{percent(abs(difference))} points"
    return f"{above}{of} is {points} above {below} on {pair.bench} (over {pair.measured.unit})"


def _health(runs: Sequence[RunSummary]) -> str:
    """The alarms of the trainings, by run."""
    trained = {run.name: run.alarms for run in runs if run.metrics}
    return alarm_sentence(trained) if trained else ""


def alarm_sentence(alarms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Which alarms rang, by run; `alarms` are the lines of each one's alarms.jsonl."""
    rang = {name: sorted({alarm["alarm"] for alarm in own}) for name, own in alarms.items() if own}
    if not rang:
        return "No alarm rang in training."
    told = [f"{name} ({', '.join(kinds)})" for name, kinds in rang.items()]
    return f"Alarms in training: {'; '.join(told)}."


def _percent(arm: Arm, bench: str) -> str:
    return f"{percent(arm.average(bench)[0])} %"


def evaluation_sentence(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The best of the evaluations during training beside the first and the last; nothing where there is none."""
    if not evaluations:
        return ""
    best = max(evaluations, key=lambda line: (line["average"], -line["step"]))
    score = with_error(best["average"], best["stderr"])
    ends = [line for line in (evaluations[0], evaluations[-1]) if line is not best]
    beside = " and ".join(dict.fromkeys(f"{percent(line['average'])} % at step {line['step']}" for line in ends))
    own = f"Best on {best['bench']} so far: step {best['step']}, {score} %"
    return f"{own}, beside {beside}." if beside else f"{own}."


_ROLLOUTS = 4
_LONGEST_TEXT = 4_000  # characters of a prompt or a rollout


def training_findings(run: TrainingParts) -> Findings:
    """What there is to see of a run after its last completed step, which has a checkpoint."""

    metrics = read_forms(run.folder / "metrics.jsonl", StepForm)
    alarms = read_forms(run.folder / ALARMS, AlarmForm)
    evaluations = read_forms(run.folder / EVALUATIONS, ValidationForm)
    tables = {} if run.objective.needs.offline else {"rollouts": _rollouts(run)}
    if evaluations:
        tables["evaluations"] = _evaluations(evaluations)
    sentences = evaluation_sentence(evaluations), alarm_sentence({run.folder.name: alarms})
    return Findings(tables, _pictures(run, metrics), [sentence for sentence in sentences if sentence])


def _rollouts(run: TrainingParts) -> TrackedTable:
    """A few rollouts of the step, with their reward where there is one."""
    columns, rewarded = ["prompt", "rollout", "tokens"], run.objective.needs.reward
    rows = [_row(run, sample) + ([sample.reward] if rewarded else []) for sample in run.samples[:_ROLLOUTS]]
    return TrackedTable([*columns, *(["reward"] if rewarded else [])], rows)


def _row(run: TrainingParts, sample: Sample) -> list[Cell]:
    prompt, text = (run.model.description.text(ids) for ids in (sample.student_prompt, sample.completion))
    return [_cut(prompt), _cut(text), len(sample.completion)]


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} … {more} more characters"


def _evaluations(evaluations: Sequence[dict[str, Any]]) -> TrackedTable:
    columns = ["step", "bench", "average, %", "stderr, %", "problems", "n"]
    rows = [
        [line["step"], line["bench"], *map(_as_percent, (line["average"], line["stderr"])), line["problems"], line["n"]]
        for line in evaluations
    ]
    return TrackedTable(columns, rows)


def _as_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _pictures(run: TrainingParts, metrics: Sequence[dict[str, Any]]) -> dict[str, Pixels]:
    """The curves of training, and the panels of the step's hidden flow if it was saved."""
    from phfcli.core.analysis.diagnose import diagnose_file
    from phfcli.core.reporting.figures import figure_of, layers_figure, pixels_of  # loads matplotlib
    from phfcli.core.reporting.training_charts import CURVES, own_metrics, training_panels

    panels = training_panels({run.folder.name: metrics}, [*CURVES, *own_metrics([metrics])])
    pictures = {"training curves": pixels_of(figure_of(list(panels.values())))}
    flow: Path = run.folder / "flows" / f"{step_name(run.step)}.safetensors"
    if flow.is_file():
        with suppress(UserError):  # rollouts without a transition have no flow to show
            pictures["hidden flow"] = pixels_of(layers_figure([diagnose_file(flow, "loss")]))
    return pictures
