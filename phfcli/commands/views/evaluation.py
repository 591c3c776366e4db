"""What an evaluation shows: a bar for each benchmark with the running average, and the table at its end."""

from typing import TYPE_CHECKING, Any

from phfcli.commands.output import percent, print_table, with_error

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from phfcli.core.evaluation.evaluator import Evaluator
    from phfcli.core.evaluation.progress import EvaluationProgress


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
            self._console.print(f"{running.bench}: {running.done} of {running.total}  {line}", markup=False)


def show_summaries(out: "Console", summaries: list[dict[str, Any]]) -> None:
    """The scores of every benchmark, a row each."""
    n = summaries[0]["n"]
    scores = f"Average@{n}", "sampling", f"pass@{n}", f"majority@{n}"
    columns = "bench", "problems", *scores, "truncated", "Average, uncut"
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
    print_table(out, title, columns, rows)


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
