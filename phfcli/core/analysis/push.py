"""Uploads a checkpoint to the Hugging Face hub: the weights, the tokenizer, a model card with scores, the settings."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from phfcli.core.errors import FaultError, UserError, first_line
from phfcli.core.runs.checkpoint_choice import Target, find_target
from phfcli.core.runs.model_card import card_of
from phfcli.core.storage.hub import hub_answers

# of --resume, and the old card
_OURS = {"trainer.json", "optimizer.safetensors", "teacher.safetensors", "ahead.safetensors", "README.md"}


def push(name: str, repo: str, private: bool = False, dry_run: bool = False) -> dict[str, int]:
    """Uploads a run's newest checkpoint, or the one that is named; returns the files with their sizes.

    dry_run: nothing leaves this machine.

    Raises:
        UserError: for what is no checkpoint of a run, or a repository that cannot be written.
        FaultError: where the hub cannot be reached.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"REPO: {repo!r} is no repository of the hub; write OWNER/NAME")
    target = find_target(name)
    if target.run is None or target.step is None:
        raise UserError(f"{name}: only a run or a checkpoint of one can be pushed")
    with TemporaryDirectory() as made:
        folder = Path(made)
        _gather(target, target.run, target.step, folder)
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        if not dry_run:
            _upload(folder, repo, private, f"{target.name}, step {target.step}")
    return files


def _gather(target: Target, run: Path, step: int, folder: Path) -> None:
    """Copies what others need of a checkpoint, and writes its card and its settings."""
    source = target.adapter or Path(target.model)
    for path in source.iterdir():
        if path.is_file() and path.name not in _OURS:
            shutil.copy(path, folder / path.name)
    shutil.copy(run / "config.yaml", folder / "phf-config.yaml")
    (folder / "README.md").write_text(card_of(run, step), encoding="utf-8")


def _upload(folder: Path, repo: str, private: bool, message: str) -> None:
    if not hub_answers():
        raise FaultError("the hub cannot be reached; try again where it is, or look at the files with --dry-run")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"phf: {message}")
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise UserError(f"{repo}: the hub refuses: {first_line(error)}; `hf auth login` may help") from None
