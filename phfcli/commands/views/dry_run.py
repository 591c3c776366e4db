"""What `phf train --dry-run` shows."""

from typing import TYPE_CHECKING

from phfcli.commands.output import print_json, quiet_libraries, result_console, warn

if TYPE_CHECKING:
    from phfcli.core.config import TrainConfig


def show_plan(settings: "TrainConfig", json_: bool, processes: int, tokens_per_s: float | None) -> None:
    """The settings, both prompts, the memory of a process and, given tokens a second, steps an hour."""
    from rich.markup import escape

    from phfcli.core.settings import write_yaml
    from phfcli.core.training.dry_run.plan import plan_run

    quiet_libraries()
    out = result_console()
    plan = plan_run(settings, processes, tokens_per_s)
    if json_:
        print_json({"settings": settings.model_dump(mode="json"), **plan.as_json()})
        return
    out.print(f"[bold]settings[/]\n{escape(write_yaml(settings))}")
    for who, prompt in plan.prompts.items():
        out.print(f"[bold]{who}, first problem[/]\n{escape(prompt)}\n")
    if plan.memory:
        out.print(f'[bold]memory of a process at its peak, in the phase "{plan.memory.peak_phase}"[/]')
        for name, size in plan.memory.at_peak().items():
            out.print(f"  {name:<24}{size / 2**20:12,.1f} MiB")
    if plan.steps_per_hour is not None:
        out.print(f"[bold]steps an hour[/], every completion as long as it may be: {plan.steps_per_hour:,.1f}")
    if plan.gaps:
        warn(f"not all can be shown: {'; '.join(plan.gaps)}")
