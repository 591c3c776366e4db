"""What `phf train --dry-run` shows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from phfcli.commands.output import as_yaml, print_json, print_table, quiet_libraries, result_console, warn

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.config import EvalConfig, Section, TrainConfig
    from phfcli.core.training.dry_run.step_memory import Memory

_GIB = (24, 40, 80)  # of common GPUs
_OWN_SECTIONS = ("sft", "grpo", "oisd", "opd", "oprd")  # settings of one objective


def show_plan(
    settings: "TrainConfig", origin: Mapping[str, str], json_: bool, processes: int, tokens_per_s: float | None
) -> None:
    """The settings that apply, both prompts, the memory of a process and, given tokens a second, the hours."""
    from rich.markup import escape

    from phfcli.core.training.dry_run.plan import plan_run

    quiet_libraries()
    out = result_console()
    plan = plan_run(settings, processes, tokens_per_s)
    if json_:
        print_json({"settings": settings.model_dump(mode="json"), **plan.as_json()})
        return
    show_settings(out, settings, origin)
    for who, prompt in plan.prompts.items():
        out.print(f"[bold]{who}, first problem[/]\n{escape(prompt)}\n")
    if processes > 1:
        share = settings.batch_size / processes
        out.print(
            f"[bold]processes[/] {processes}, each with {share:g} of the {settings.batch_size} problems of a step"
        )
    if plan.memory:
        _show_memory(out, plan.memory)
    if plan.steps_per_hour is not None:
        hours = settings.steps / plan.steps_per_hour
        told = f"{plan.steps_per_hour:,.1f}, so {settings.steps} steps take {hours:,.1f} hours"
        out.print(f"[bold]steps an hour[/], every completion as long as it may be: {told}")
    if plan.gaps:
        warn(f"not all can be shown: {'; '.join(plan.gaps)}")


def show_settings(out: "Console", settings: "Section", origin: Mapping[str, str]) -> None:
    """The settings that apply as YAML, each with where its value comes from."""
    from phfcli.core.settings import leaves

    values = leaves(settings.model_dump(mode="json"))
    shown = {key: f"{key}: {as_yaml(value)}" for key, value in values.items() if key in origin or _applies(key, values)}
    out.print(
        "[bold]settings[/]: a recipe's, yours, or the default; `phf config show` has those of other objectives too"
    )
    width = max(map(len, shown.values()))
    for key, line in shown.items():
        out.print(f"  {line:<{width}}  # {origin.get(key, 'default')}", markup=False, soft_wrap=True)


def _applies(key: str, values: Mapping[str, object]) -> bool:
    """Whether a default matters: not one of another objective, nor of something that is not used."""
    section, _, _ = key.partition(".")
    objective, engine = values.get("objective"), str(values.get("rollout.engine") or values.get("engine"))
    if section in _OWN_SECTIONS:
        return section == objective or (section == "grpo" and objective == "oisd")
    if section == "evaluation":
        return values.get("evaluation.every") is not None
    if section in ("http", "vllm"):
        return "://" in engine if section == "http" else engine == "vllm"
    return values[key] is not None


def _show_memory(out: "Console", memory: "Memory") -> None:
    """Every phase of a step, the parts of the largest, and which GPUs it fits on."""
    always, peak = sum(memory.always.values()), memory.at_peak()
    out.print("[bold]memory of a process[/], by phase of a step")
    for name, parts in memory.phases.items():
        mark = "  <- the peak" if name == memory.peak_phase else ""
        out.print(f"  {name:<24}{(always + sum(parts.values())) / 2**20:12,.1f} MiB{mark}")
    out.print(f'its parts at the peak, in the phase "{memory.peak_phase}"')
    for name, size in peak.items():
        out.print(f"  {name:<24}{size / 2**20:12,.1f} MiB")
    fits = [f"{size} GiB: {'fits' if peak['total'] <= size * 2**30 else 'does not fit'}" for size in _GIB]
    out.print(f"a GPU of {', '.join(fits)}")


def show_evaluation_plan(settings: "EvalConfig", origin: Mapping[str, str], json_: bool) -> None:
    """The settings of an evaluation, how many samples of what it draws, and a prompt."""
    from phfcli.core.evaluation.evaluation_plan import plan_evaluation

    quiet_libraries()
    plan = plan_evaluation(settings)
    if json_:
        print_json({"settings": settings.model_dump(mode="json"), **plan})
        return
    out = result_console()
    show_settings(out, settings, origin)
    columns = ("bench", "problems", "samples", "max_new_tokens", "source")
    rows = [tuple(str(bench[name]) for name in columns) for bench in plan["benches"]]
    print_table(out, plan["adapter"] or plan["model"], columns, rows)
    out.print("[bold]first prompt[/]")
    out.print(plan["prompt"], markup=False)
