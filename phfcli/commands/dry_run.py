"""What `phf train --dry-run` and `phf eval --dry-run` show."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phfcli.commands.output import GLUE, print_result, print_table, quiet_libraries, result_console, say, warn
from phfcli.core.errors import as_yaml

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.config import EvalConfig, Section, TrainConfig
    from phfcli.core.training.step_memory import Memory

_GIB = (24, 40, 80)  # of common GPUs
_HOURS = "with --tokens-per-s X, which the lines of a run and the last line of an evaluation show"


def show_plan(
    settings: "TrainConfig", origin: Mapping[str, str], json_: bool, processes: int, tokens_per_s: float | None
) -> None:
    """Prints the settings that apply, both prompts, the memory of a process and, given tokens a second, the hours."""
    from rich.markup import escape

    from phfcli.core.training.plan import plan_run

    quiet_libraries()
    out = result_console()
    plan = plan_run(settings, processes, tokens_per_s)
    if json_:
        print_result({"settings": settings.model_dump(mode="json"), **plan.as_json()})
        return
    show_settings(out, settings, origin, _unread(settings, plan.sections))
    for who, prompt in plan.prompts.items():
        out.print(f"[bold]{who}, first problem[/]\n{escape(prompt)}\n")
    if processes > 1:
        share = settings.batch_size / processes
        out.print(
            f"[bold]processes[/] {processes}, each with {share:g} of the {settings.batch_size} problems of a step"
        )
    out.print(f"[bold]planned for[/] {plan.machine}")
    if plan.memory:
        _show_memory(out, plan.memory)
    if plan.gpu_hours:
        _show_gpu_hours(out, plan.gpu_hours)
    if plan.steps_per_hour is not None:
        hours = settings.steps / plan.steps_per_hour
        text = f"{plan.steps_per_hour:,.1f}, so {settings.steps} steps take {hours:,.1f} hours"
        out.print(f"[bold]steps an hour[/], every completion as long as it may be: {text}")
    else:
        say(out, f"hours: {_HOURS}")
    _warn_of_gaps(plan.gaps)


def _unread(settings: "TrainConfig", sections: Sequence[str]) -> set[str]:
    """The sections that other objectives read, and this one does not."""
    from phfcli.core.config import ObjectiveSection

    return {name for name, value in settings if isinstance(value, ObjectiveSection)} - set(sections)


def show_settings(out: "Console", settings: "Section", origin: Mapping[str, str], unread: Collection[str] = ()) -> None:
    """Prints the settings as YAML: those of a recipe or the user with their sources, then the defaults that apply.

    unread: sections whose defaults are not shown.
    """
    from phfcli.core.settings import leaves

    values = leaves(settings.model_dump(mode="json"))
    given = {key: f"{key}: {as_yaml(values[key])}" for key in values if key in origin}
    room = out.width - 6 - max((len(origin[key]) for key in given), default=0)  # beside the longest source
    width = max((len(line) for line in given.values() if len(line) <= room), default=0)
    out.print("[bold]settings[/] of a recipe or yours")
    for key, line in given.items():
        out.print(f"  {line:<{width}}  # {origin[key]}", markup=False, soft_wrap=True)
    defaults = (f"{key}: {as_yaml(value)}" for key, value in values.items() if key not in origin)
    shown = [line for line in defaults if _applies(line.partition(":")[0], values, unread)]
    out.print("[bold]defaults[/]; `phf config show` has those of other objectives too")
    text = textwrap.fill("; ".join(line.replace(" ", GLUE) for line in shown), out.width - 4, break_on_hyphens=False)
    say(out, textwrap.indent(text, "  "))


def _applies(key: str, values: Mapping[str, object], unread: Collection[str]) -> bool:
    """Whether a default has an effect: it is not of another objective, nor of an engine that is not used."""
    section, _, _ = key.partition(".")
    engine = str(values.get("rollout.engine") or values.get("engine"))
    if section in unread:
        return False
    if section == "evaluation":
        return values.get("evaluation.every") is not None
    if section in ("http", "vllm"):
        return "://" in engine if section == "http" else engine == "vllm"
    return values[key] is not None


def _show_memory(out: "Console", memory: "Memory") -> None:
    """Prints every phase of a step, the parts of the largest, and which GPUs it fits on."""
    always, peak = sum(memory.always.values()), memory.at_peak()
    out.print("[bold]memory of a process[/], by phase of a step")
    phases = {name: always + sum(parts.values()) for name, parts in memory.phases.items()}
    _show_sizes(out, phases, mark=memory.peak_phase)
    out.print(f'its parts at the peak, in the phase "{memory.peak_phase}"')
    _show_sizes(out, peak)
    _show_fits(out, peak["total"])


def _show_sizes(out: "Console", sizes: Mapping[str, int], mark: str = "") -> None:
    """Prints a line for each size, with an arrow behind the one named `mark`."""
    for name, size in sizes.items():
        arrow = "  <- the peak" if name == mark else ""
        out.print(f"  {name:<24}{size / 2**20:12,.1f} MiB{arrow}")


def _show_gpu_hours(out: "Console", hours: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Prints, by GPU that the run fits, the hours of all processes together."""
    from phfcli.core.training.step_memory import EFFICIENCY

    about = f"counted, not measured: from the least that a GPU can take to {EFFICIENCY:.0%} of its speed"
    out.print(f"[bold]GPU hours[/], every completion as long as it may be; {about}")
    rows = [(name, *(f"{low:.2f} to {high:.2f}" for low, high in parts.values())) for name, parts in hours.items()]
    print_table(out, "", ("fits", "updates", "drawing"), rows, text=("fits",))


def _show_fits(out: "Console", total: int) -> None:
    fits = [f"{size} GiB: {'fits' if total <= size * 2**30 else 'does not fit'}" for size in _GIB]
    out.print(f"a GPU of {', '.join(fits)}")


def show_evaluation_plan(
    settings: "EvalConfig", origin: Mapping[str, str], json_: bool, tokens_per_s: float | None
) -> None:
    """Prints an evaluation's settings, its benchmarks and samples, the first prompt, the memory and the hours."""
    from phfcli.core.evaluation.forecast import plan_evaluation

    quiet_libraries()
    plan = plan_evaluation(settings, tokens_per_s)
    if json_:
        print_result({"settings": settings.model_dump(mode="json"), **plan})
        return
    out = result_console()
    show_settings(out, settings, origin)
    columns = ("bench", "problems", "samples", "max_new_tokens", "source")
    rows = [tuple(str(bench.get(name, "-")) for name in columns) for bench in plan["benches"]]
    if rows:
        print_table(out, plan["adapter"] or plan["model"], columns, rows, text=("bench", "source"))
    if plan["tokens"] is not None:
        _show_sampling(out, plan)
    _warn_of_gaps(plan["gaps"])


def _show_sampling(out: "Console", plan: Mapping[str, Any]) -> None:
    """Prints the first prompt, the memory and the hours of an evaluation."""
    out.print("[bold]first prompt[/]")
    out.print(plan["prompt"], markup=False)
    if plan["memory_bytes"] is not None:  # of a model on a server nothing is known
        out.print("[bold]memory[/] of an engine: the weights, and at least one sequence at its longest")
        _show_sizes(out, plan["memory_bytes"])
        _show_fits(out, sum(plan["memory_bytes"].values()))
    out.print(f"[bold]tokens[/], every sample as long as it may be: {plan['tokens']:,}")
    if plan["hours"] is None:
        say(out, f"hours: {_HOURS}")
    else:
        out.print(f"[bold]hours[/] {plan['hours']:,.1f}")


def _warn_of_gaps(gaps: Sequence[str]) -> None:
    if gaps:
        warn(f"some parts cannot be shown: {'; '.join(gaps)}")
