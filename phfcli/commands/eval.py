"""phf eval, and what it shows: a bar for each benchmark, then a table of scores."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phfcli.commands.dry_run import show_evaluation_plan
from phfcli.commands.options import (
    EVALUATION,
    OUTPUT,
    AsJson,
    Base,
    Configs,
    Grader,
    OutputDir,
    Quiet,
    SamplingEngine,
    Sets,
    Setting,
    TokensPerS,
    benchmarks,
    completing,
    names_of,
    settings_given,
)
from phfcli.commands.output import (
    GLUE,
    log_console,
    print_result,
    print_table,
    quiet_libraries,
    result_console,
    say,
    warn,
)
from phfcli.core.errors import UserError, percent, with_error

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from phfcli.core.evaluation.evaluator import EvaluationProgress, Evaluator


def evaluate(
    target: Annotated[
        str | None,
        Setting("model"),
        typer.Argument(metavar="TARGET", help="A run, checkpoint, adapter, model folder or hub id."),
    ] = None,
    bench: Annotated[
        str | None,
        Setting("bench", names_of),
        typer.Option(
            metavar="NAME|FILE[,...]",
            help="Benchmarks or suites ('list' shows them), files, or FILE.py:NAME (embedded).",
            autocompletion=completing(benchmarks),
            rich_help_panel=EVALUATION,
        ),
    ] = None,
    n: Annotated[
        int | None, Setting("n"), typer.Option("--n", help="Samples per problem (12).", rich_help_panel=EVALUATION)
    ] = None,
    greedy: Annotated[
        bool | None,
        Setting("greedy"),
        typer.Option(
            "--greedy/--no-greedy",
            help="One greedy completion a problem besides (yes, unless the model thinks at length).",
            rich_help_panel=EVALUATION,
        ),
    ] = None,
    grader: Grader = None,
    base: Base = None,
    engine: SamplingEngine = None,
    devices: Annotated[
        str | None,
        Setting("devices", names_of),
        typer.Option(metavar="0,1,...", help="GPUs to sample on, one process for each.", rich_help_panel=EVALUATION),
    ] = None,
    workers: Annotated[
        int | None,
        Setting("workers"),
        typer.Option(metavar="N", help="Sample in N processes on the CPU.", rich_help_panel=EVALUATION),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        Setting("max_new_tokens"),
        typer.Option(help="38,912, or what the model's context leaves.", rich_help_panel=EVALUATION),
    ] = None,
    temperature: Annotated[
        float | None,
        Setting("temperature"),
        typer.Option(help="1.0; 0 is greedy.", rich_help_panel=EVALUATION),
    ] = None,
    limit: Annotated[
        int | None,
        Setting("limit"),
        typer.Option(metavar="N", help="Only the first N problems.", rich_help_panel=EVALUATION),
    ] = None,
    seed: Annotated[
        int | None, Setting("seed"), typer.Option(help="Seed of the samples (0).", rich_help_panel=EVALUATION)
    ] = None,
    output_dir: OutputDir = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show settings, samples, a prompt and memory; load no weights.", rich_help_panel=OUTPUT
        ),
    ] = False,
    tokens_per_s: TokensPerS = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Sample n completions a problem, verify each answer, report Average@n with its standard error.

    Samples are on disk as they finish; the same command again goes on where a stopped one ended.

    \b
    Examples:
      phf eval embedded  # the embedded base model on the embedded problems
      phf eval runs/phf-embedded-seed0  # a run's newest checkpoint
      phf eval runs/phf/checkpoints/step-000050 --bench embedded-dev --n 4
      phf eval Qwen/Qwen3-4B --bench paper --n 12 --devices 0,1,2,3  # the published protocol
      phf eval my-adapter/ --bench problems.jsonl --json
      phf eval my-adapter/ --bench problems.jsonl --grader checks.py:passes_tests  # code answers, say
      phf eval runs/phf --engine http://localhost:8000  # on a running `vllm serve`
      phf eval --bench list
    """
    if bench == "list":
        _list_benchmarks(json_)
        return
    if target is None:
        raise UserError("TARGET: name a run, a checkpoint, an adapter, a model folder or a hub id")
    sources = settings_given(evaluate, locals())
    from phfcli.core.config import EvalConfig
    from phfcli.core.settings import origins, resolve

    settings = resolve(EvalConfig, sources)
    if dry_run:
        show_evaluation_plan(settings, origins(sources), json_, tokens_per_s)
        return
    if tokens_per_s is not None:
        raise UserError("--tokens-per-s: only with --dry-run, which predicts the hours from it")
    from phfcli.core.evaluation import evaluator as core
    from phfcli.core.evaluation.scores import notes_of

    quiet_libraries()
    progress = EvaluationBars(log_console(quiet))
    with progress.bars:
        summaries = core.evaluate(settings, progress.start, progress.show, warn)
    for summary in summaries:
        for note in notes_of(summary):
            warn(note)
    if json_:
        print_result({"benches": summaries})
    else:
        out = result_console()
        show_summaries(out, summaries)
        for summary in summaries:
            say(out, f"{summary['bench']:<10} {details(summary)}")
            say(out, f"samples    {summary['folder']}/samples.html")


def _list_benchmarks(json_: bool) -> None:
    from dataclasses import asdict

    from phfcli.core.evaluation.benchmarks import EMBEDDED_SPLITS, HUB, SUITES
    from phfcli.core.extensions import names

    added = names("benchmarks")
    if json_:
        hub = {
            name: {k: v for k, v in asdict(source).items() if k not in ("gold", "choices")}
            for name, source in HUB.items()
        }
        print_result({"embedded": list(EMBEDDED_SPLITS), "hub": hub, "suites": SUITES, "added": added})
        return
    rows = [(name, "embedded", "", "problem, answer", "") for name in EMBEDDED_SPLITS]
    for name, source in HUB.items():
        columns = f"{source.problem}, {source.answer}"
        rows.append((name, source.hub_id, source.split, columns, (source.revision or "newest")[:12]))
    rows += [(name, "added", "", "problem, answer", "") for name in added]
    rows += [(name, f"suite: {', '.join(members)}", "", "", "") for name, members in SUITES.items()]
    out = result_console()
    heads = ("name", "source", "split", "columns", "revision")
    print_table(out, "benchmarks", heads, rows, text=heads)
    out.print("any .jsonl, .csv or .parquet file with problem and answer, by its path", markup=False)


class EvaluationBars:
    """A bar for each benchmark, with the running average."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as EtaColumn

        text, line = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[line]}")
        columns = (text, BarColumn(24), MofNCompleteColumn(), line, TimeElapsedColumn(), EtaColumn())
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console = console
        self._tasks: dict[str, TaskID] = {}

    def start(self, evaluation: "Evaluator") -> None:
        target = evaluation.target
        step = f" step {target.step}" if target.step else ""
        self._console.print(f"evaluating {target.name}{step} with {evaluation.engine.name}", markup=False)

    def show(self, running: "EvaluationProgress") -> None:
        if running.bench not in self._tasks:
            self._tasks[running.bench] = self.bars.add_task(running.bench, total=running.total, line="")
        speed = running.tokens / max(running.seconds, 1e-9)
        line = f"{with_error(running.average, running.stderr)} %  {speed:,.0f} tok/s"
        task = self._tasks[running.bench]
        before = self.bars.tasks[task].percentage
        self.bars.update(task, completed=running.done, line=line)
        if not self._console.is_terminal and self.bars.tasks[task].percentage // 25 > before // 25:
            seconds = timedelta(seconds=round(running.seconds))
            left = timedelta(seconds=round(running.seconds / running.done * (running.total - running.done)))
            done = f"{running.done} of {running.total}"
            times = f"{seconds}{GLUE}elapsed  {left}{GLUE}left"
            say(self._console, f"{running.bench}: {done.replace(' ', GLUE)}  {line}  {times}")


def show_summaries(out: "Console", summaries: list[dict[str, Any]]) -> None:
    """The scores of every benchmark, a row each."""
    n = summaries[0]["n"]
    scores = f"Average@{n}", "sampling", "greedy", f"pass@{n}", f"majority@{n}"
    columns = "bench", "problems", *scores, "truncated", "looped", "Average, uncut"
    rows = [
        (
            summary["bench"],
            str(summary["problems"]),
            with_error(summary["average"], summary["stderr"]),
            with_error(None, summary["sampling_stderr"]),
            percent(summary.get("greedy")),
            percent(summary["pass_at_k"][str(n)]),
            percent(summary["majority"]),
            percent(summary["truncated_share"]),
            percent(summary.get("loops_share")),
            percent(summary["completed_average"]),
        )
        for summary in summaries
    ]
    title = f"{summaries[0]['target']}, percent ± standard error over problems (sampling: of the samples alone)"
    print_table(out, title, columns, rows, text=("bench",))


def details(summary: dict[str, Any]) -> str:
    """Lengths, missing answers and speed of one benchmark's samples, in a line."""
    quantiles = summary["token_quantiles"]
    tokens = " / ".join(f"{quantiles[q]:,}" for q in ("0.1", "0.5", "0.9"))
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    return (
        f"{summary['samples']:,} samples of {tokens} tokens (10, 50, 90 %), "
        f"{summary['no_answer']} completed without an answer; "
        f"{summary['tokens_per_s']:,.0f} tokens/s, {minutes}:{seconds:02}"
    )
