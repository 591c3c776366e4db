"""phf push."""

from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Quiet
from phfcli.commands.output import print_json, print_table, result_console


def push(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run (its newest checkpoint), or a checkpoint of one.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files; send nothing.")] = False,
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
    from phfcli.core.analysis.push import push as core

    if json_ or quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    files = core(target, repo, private, dry_run)
    if json_:
        print_json({"repo": repo, "sent": not dry_run, "files": files})
    elif not quiet:
        out = result_console()
        rows = [(name, f"{size:,}") for name, size in files.items()]
        print_table(out, f"{'would go' if dry_run else 'sent'} to {repo}", ("file", "bytes"), rows)
