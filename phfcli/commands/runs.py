"""phf runs, phf watch and phf verify."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import AsJson, Quiet
from phfcli.commands.output import print_json, print_result, print_table, quiet_libraries, result_console, say
from phfcli.core.errors import UserError, percent, printable

if TYPE_CHECKING:
    from phfcli.core.runs.targets import RunState

_AGES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_EVERY_S = 2.0  # between two readings of a run


def runs(
    words: Annotated[list[str] | None, typer.Argument(metavar="[clean] [DIR]", help="Where the runs are.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With clean: remove the folders that it names.")] = False,
    json_: AsJson = False,
) -> None:
    """List runs: objective, model, step, last loss, best score, age, state. The newest is last.

    `phf runs clean` names runs that stopped before their first checkpoint and checkpoints that were set aside as
    damaged; with --yes it removes them.

    \b
    Examples:
      phf runs
      phf runs /data/runs
      phf runs clean
      phf runs clean /data/runs --yes
    """
    given = list(words or [])
    cleaning = given[:1] == ["clean"]
    folders = given[1:] if cleaning else given
    if len(folders) > 1:
        raise UserError(f"phf runs: one folder at a time, got {', '.join(folders)}")
    if yes and not cleaning:
        raise UserError("--yes: only with `phf runs clean`")
    folder = Path(folders[0] if folders else "runs")
    if cleaning:
        _clean(folder, yes, json_)
    else:
        _list(folder, json_)


def _list(folder: Path, json_: bool) -> None:
    from phfcli.core.runs.targets import find_runs

    found = find_runs(folder)
    if json_:
        print_json([{**asdict(run), "folder": str(run.folder)} for run in found])
    elif not found:
        result_console().print(f"no runs in {folder}", markup=False)
    else:
        columns = ("run", "objective", "model", "step", "loss", "best %", "age", "state")
        rows, text = [_row(run, folder) for run in found], ("run", "objective", "model", "state")
        print_table(result_console(), "", columns, rows, text, first_to_go=("age", "model"))


def _row(run: "RunState", folder: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(folder)) if run.folder != folder else run.folder.name
    loss = "-" if run.loss is None else f"{run.loss:.4f}"
    model = Path(run.model).name
    return name, run.objective, model, f"{run.step}/{run.steps}", loss, percent(run.best), _age(run.changed), run.state


def _age(changed: float) -> str:
    seconds = max(time.time() - changed, 0)
    size, unit = next((pair for pair in _AGES if seconds >= pair[0]), _AGES[-1])
    return f"{seconds / size:.0f} {unit}"


def _clean(folder: Path, yes: bool, json_: bool) -> None:
    from phfcli.core.runs.targets import leftovers
    from phfcli.core.storage.files import remove_all

    found = leftovers(folder)
    if yes:
        remove_all(found)
    if json_:
        print_result({"removed": yes, "folders": [str(path) for path in found]})
        return
    out = result_console()
    for path in found:
        say(out, f"{'removed' if yes else 'would remove'} {printable(str(path))}")
    if not found:
        out.print("nothing to remove")
    elif not yes:
        out.print("give --yes to remove them")


def watch(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Follow a run from another shell: its steps as they are done, until it ends.

    \b
    Example:
      phf watch runs/phf-qwen3-4b-seed0
    """
    from phfcli.commands.train import step_line
    from phfcli.core.runs.folder import is_run
    from phfcli.core.runs.targets import run_state
    from phfcli.core.storage.schemas import ManifestForm, StepForm, read_form, read_forms

    if not is_run(run):
        raise UserError(f"{run}: this is no run: it has no config.yaml")
    out, shown = result_console(), 0
    divergence = read_form(run / "manifest.json", ManifestForm).get("divergence")
    while True:
        state = run_state(run)  # read before the metrics, so that every step done until then is shown
        if state.state == "damaged":
            raise UserError(state.problem)
        for line in read_forms(run / "metrics.jsonl", StepForm):
            if line["step"] > shown:
                shown = line["step"]
                say(out, step_line(line, divergence))
        if state.state != "training":
            out.print(f"{state.state}: step {state.step} of {state.steps}", markup=False)
            return
        time.sleep(_EVERY_S)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")],
    full: Annotated[bool, typer.Option("--full", help="Also load the base model with the newest adapter.")] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a run folder: lock, forms, checksums, and whether its adapters fit the base model.

    For each part it says whether that is ok, damaged or missing, and what to do. Exit code 1 if something is not ok.

    \b
    Examples:
      phf verify runs/phf-embedded-seed0
      phf verify runs/phf-embedded-seed0 --full --json
    """
    from phfcli.core.analysis.verify import verify_run

    quiet_libraries()
    findings = verify_run(run, full)
    bad = [finding for finding in findings if finding.state not in ("ok", "in use")]
    if json_:
        print_result({"run": str(run), "ok": not bad, "findings": [asdict(finding) for finding in findings]})
    elif bad or not quiet:
        out = result_console()
        columns = ("part", "state")
        print_table(out, str(run), columns, [(finding.part, finding.state) for finding in findings], text=columns)
        for finding in bad:
            say(out, f"{finding.state:<11}{finding.reason}")
            say(out, f"{'do':<11}{finding.advice}")
    if bad:
        raise typer.Exit(1)
