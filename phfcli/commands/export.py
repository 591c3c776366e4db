"""phf export, and phf push."""

from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Base, Quiet
from phfcli.commands.output import log_console, print_result, print_table, quiet_libraries, result_console, say


def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run, a checkpoint or an adapter.")],
    merged: Annotated[Path, typer.Option("--merged", metavar="DIR", help="A new folder for the whole model.")],
    base: Base = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fold a checkpoint's adapter into its base model and write a plain model folder.

    The sum is taken on the CPU in float32 (four bytes a parameter) and rounded once to the base's own precision.

    \b
    Examples:
      phf export runs/phf-embedded-seed0 --merged merged/
      phf export runs/phf/checkpoints/step-000050 --merged merged-50/
      phf export my-adapter/ --base Qwen/Qwen3-4B --merged qwen3-4b-phf/
    """
    from phfcli.core.analysis.publish import export_merged

    quiet_libraries()
    say(log_console(quiet), f"merging {target}")
    dtype = str(export_merged(target, merged, base)).removeprefix("torch.")
    if json_:
        print_result({"folder": str(merged), "dtype": dtype})
    else:
        say(result_console(), f"model      {merged} ({dtype})")


def push(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run (its newest checkpoint), or a checkpoint of one.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the model card; send nothing.")
    ] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a checkpoint to the Hugging Face hub, with a model card that has its scores.

    The optimizer's and the teacher's state stay here.

    \b
    Examples:
      phf push runs/phf-qwen3-4b-seed0 me/qwen3-4b-phf --dry-run
      phf push runs/phf-qwen3-4b-seed0/best me/qwen3-4b-phf --private
    """
    from phfcli.core.analysis.publish import push as core

    if json_ or quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    pushed = core(target, repo, private, dry_run)
    if json_:
        print_result(
            {"repo": repo, "sent": not dry_run, "files": pushed.files, "left": pushed.left, "card": pushed.card}
        )
    elif not quiet:
        out = result_console()
        rows = [(name, f"{size:,}") for name, size in pushed.files.items()]
        print_table(out, f"{'would go' if dry_run else 'sent'} to {repo}", ("file", "bytes"), rows, text=("file",))
        for name in pushed.left:
            say(out, f"left here  {name}: not a file that a model is read from")
        if dry_run:
            say(out, pushed.card)
