"""phf eval."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from phfcli.commands.common import (
    AsJson,
    Configs,
    Quiet,
    Sets,
    log_console,
    percent,
    plain_table,
    print_json,
    quiet_libraries,
    result_console,
    settings_given,
    warn,
    with_error,
)
from phfcli.core.errors import UserError
from phfcli.core.names import ENGINES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from phfcli.core.evaluation.evaluate import EvaluationProgress, Evaluator


def evaluate(
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="A run, checkpoint, adapter, model folder or hub id.")
    ] = None,
    bench: Annotated[
        str, typer.Option(metavar="NAME|FILE[,...]", help="Benchmarks or suites ('list' shows them), or files.")
    ] = "embedded",
    n: Annotated[int | None, typer.Option("--n", help="Samples per problem (12).")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="ID|DIR", help="The model under an adapter, if not the one it names.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME|URL", help=f"{', '.join(ENGINES)}, or http://HOST:PORT."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="0,1,...", help="GPUs to sample on, one process for each.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="So many sampling processes on the CPU.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="At most 38,912, or what the context leaves.")] = None,
    temperature: Annotated[float | None, typer.Option(help="1.0; 0 is greedy.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many problems.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the samples (0).")] = None,
    output_dir: Annotated[str | None, typer.Option(metavar="DIR", help="In the run's folder if not given.")] = None,
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
      phf eval runs/phf --engine http://localhost:8000  # on a running `vllm serve`
      phf eval --bench list
    """
    if bench == "list":
        _list_benchmarks(json_)
        return
    if target is None:
        raise UserError("TARGET: name a run, a checkpoint, an adapter, a model folder or a hub id")
    options = [
        ("TARGET", "model", target),
        ("--base", "base", base),
        ("--bench", "bench", [name for name in bench.split(",") if name]),
        ("--n", "n", n),
        ("--engine", "engine", engine),
        ("--devices", "devices", [name for name in devices.split(",") if name] if devices else None),
        ("--workers", "workers", workers),
        ("--max-new-tokens", "max_new_tokens", max_new_tokens),
        ("--temperature", "temperature", temperature),
        ("--limit", "limit", limit),
        ("--seed", "seed", seed),
        ("--output-dir", "output_dir", output_dir),
    ]
    from phfcli.core.config import EvalConfig
    from phfcli.core.settings import resolve

    settings = resolve(EvalConfig, settings_given(config, set_, options))
    from phfcli.core.evaluation import evaluate as core

    quiet_libraries()
    progress = _Progress(log_console(quiet))
    with progress.bars:
        summaries = core.evaluate(settings, progress.start, progress.show, warn)
    for summary in summaries:
        if summary["unusable_golds"]:
            unusable = ", ".join(summary["unusable_golds"])
            warn(f"{summary['bench']}: left out, since their gold answers cannot be read: {unusable}")
        if summary["grader_failures"]:
            warn(f"{summary['bench']}: {summary['grader_failures']} answers were not graded and count as not correct")
    if json_:
        print_json({"target": target, "benches": summaries})
    else:
        out = result_console()
        out.print(_table(summaries))
        for summary in summaries:
            out.print(f"{summary['bench']:<11}{_details(summary)}", markup=False, soft_wrap=True)
            out.print(f"samples    {summary['folder']}/samples.html", markup=False, soft_wrap=True)


class _Progress:
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
            self._console.print(f"{running.bench}: {running.done} of {running.total}  {line}", markup=False)


def _list_benchmarks(json_: bool) -> None:
    from dataclasses import asdict

    from phfcli.core.evaluation.benchmarks import EMBEDDED_SPLITS, HUB, SUITES

    if json_:
        hub = {name: {k: v for k, v in asdict(source).items() if k != "gold"} for name, source in HUB.items()}
        print_json({"embedded": list(EMBEDDED_SPLITS), "hub": hub, "suites": SUITES})
        return
    rows = [(name, "embedded", "", "problem, answer", "") for name in EMBEDDED_SPLITS]
    for name, source in HUB.items():
        columns = f"{source.problem}, {source.answer}"
        rows.append((name, source.hub_id, source.split, columns, (source.revision or "newest")[:12]))
    rows += [(name, f"suite: {', '.join(members)}", "", "", "") for name, members in SUITES.items()]
    out = result_console()
    out.print(plain_table("benchmarks", ("name", "source", "split", "columns", "revision"), rows))
    out.print("any .jsonl, .csv or .parquet file with problem and answer, by its path", markup=False)


def _table(summaries: list[dict[str, Any]]) -> "Table":
    n = summaries[0]["n"]
    columns = "bench", "problems", f"Average@{n}", "sampling", f"pass@{n}", f"majority@{n}", "truncated", "completed"
    rows = [
        (
            summary["bench"],
            str(summary["problems"]),
            with_error(summary["average"], summary["stderr"]),
            with_error(None, summary["sampling_stderr"]),
            percent(summary["pass_at_k"][str(n)]),
            percent(summary["majority"]),
            percent(summary["truncated_share"]),
            percent(summary["completed_average"]),
        )
        for summary in summaries
    ]
    title = f"{summaries[0]['target']}, percent ± standard error over problems (sampling: of the samples alone)"
    return plain_table(title, columns, rows)


def _details(summary: dict[str, Any]) -> str:
    quantiles = summary["token_quantiles"]
    tokens = " / ".join(f"{quantiles[q]:,}" for q in ("0.1", "0.5", "0.9"))
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    return (
        f"{summary['samples']:,} samples of {tokens} tokens (10, 50, 90 %), {summary['no_answer']} without an answer; "
        f"{summary['tokens_per_s']:,.0f} tokens/s, {minutes}:{seconds:02}"
    )
