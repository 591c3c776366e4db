"""Exports a checkpoint as a plain model folder, or uploads it to the Hugging Face hub."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from phfcli.core.config import ModelSettings
from phfcli.core.errors import FaultError, UserError, first_line
from phfcli.core.models.adapters import check_adapter
from phfcli.core.models.description import generation_config, load_config, load_description
from phfcli.core.models.loading import load_model
from phfcli.core.models.prompts import fixed_template
from phfcli.core.runs.folder import recorded_config
from phfcli.core.runs.model_card import card_of, public
from phfcli.core.runs.targets import Target, find_target
from phfcli.core.settings import dump_yaml
from phfcli.core.storage.files import check_folder, new_folder, read_json, write_json
from phfcli.core.storage.tables import hub_answers


def export_merged(name: str, folder: Path, base: str | None = None) -> torch.dtype:
    """Writes the model with its adapter merged into a new or empty folder; returns the dtype of the weights.

    Adapter and base are added in float32 and rounded once, to the dtype of the base model's files. Checkpoints of all
    weights are rounded to that dtype too.

    Raises:
        UserError: a plain model, an adapter of another model, or a folder that is not empty.
    """
    target = find_target(name, base)
    if target.plain:
        raise UserError(f"{name}: is a plain model already; export takes a run, a checkpoint or an adapter")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"merged {folder}: is not empty; choose another folder")
    check_folder("merged", folder)
    description = load_description(target.model)
    if target.adapter is not None:
        check_adapter(target.adapter, description)
    base_dtype = load_config(target.origin).dtype
    dtype = base_dtype if isinstance(base_dtype, torch.dtype) else torch.float32
    model = load_model(ModelSettings(model=target.model, dtype="float32", device="cpu"), target.adapter)
    network = model.network
    merged = _merge(name, network, dtype) if isinstance(network, PeftModel) else network
    merged = torch.nn.Module.to(merged, dtype)
    if target.run is not None:
        prompt = recorded_config(target.run).prompt
        template = fixed_template(description.tokenizer, prompt.chat_template, prompt.thinking, prompt.day)
        description.tokenizer.chat_template = template
    merged.generation_config = generation_config(target.origin, merged.config)
    with new_folder(folder) as temporary:
        merged.save_pretrained(temporary)
        description.tokenizer.save_pretrained(temporary)
    return dtype


@torch.no_grad()
def _merge(name: str, network: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """The base model in float32 with the adapter in its weights, which are rounded to `dtype`."""
    vocabulary = network.get_input_embeddings().weight.shape[0]
    ids = torch.arange(16)[None] % vocabulary
    with network.disable_adapter():
        before = network(input_ids=ids, use_cache=False).logits
    merged: PreTrainedModel = network.merge_and_unload(safe_merge=True)
    for p in merged.parameters():
        p.copy_(p.to(dtype))
    if torch.equal(merged(input_ids=ids, use_cache=False).logits, before):
        kind = str(dtype).removeprefix("torch.")
        raise UserError(
            f"{name}: merged into {kind} weights it changes no logit: it has not been trained, or its small steps are "
            "lost to rounding; use the adapter itself"
        )
    return merged


# what a model or an adapter is read from, by name; anything else in a checkpoint's folder stays here
_OF_A_MODEL = re.compile(
    r"(?:adapter_)?(?:config|model(?:-\d+-of-\d+)?)\.(?:json|safetensors)|model\.safetensors\.index\.json"
    r"|(?:generation|tokenizer|preprocessor|processor|image_processor|video_preprocessor)_config\.json"
    r"|tokenizer\.(?:json|model)|special_tokens_map\.json|added_tokens\.json|chat_template\.(?:jinja|json)"
    r"|vocab\.(?:json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|tekken\.json"
)
# files that only a resumed training reads, and the old model card
_OURS = {"trainer.json", "optimizer.safetensors", "teacher.safetensors", "ahead.safetensors", "README.md", "state"}


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        files: with their sizes in bytes.
        left: the names of the folder's other files.
        card: the text of the model card.
    """

    files: dict[str, int]
    left: list[str]
    card: str


def push(name: str, repo: str, private: bool = False, dry_run: bool = False) -> Pushed:
    """Uploads a checkpoint, or the newest one of a run.

    Args:
        name: a run or a checkpoint.
        repo: OWNER/NAME on the hub, which is created if it does not exist.
        dry_run: collects the files without uploading them.

    Raises:
        UserError: the target is no checkpoint of a run, or the repository cannot be written.
        FaultError: the hub cannot be reached, or fails.
    """
    _check_repo(repo)
    target = find_target(name)
    if target.run is None or target.step is None:
        raise UserError(f"{name}: only a run or a checkpoint of one can be pushed")
    with TemporaryDirectory() as made:
        folder = Path(made)
        left = _gather(target, target.run, target.step, repo, folder)
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        if not dry_run:
            _upload(folder, repo, private, f"{target.name}, step {target.step}")
        return Pushed(files, left, (folder / "README.md").read_text(encoding="utf-8"))


def _check_repo(repo: str) -> None:
    """Raises UserError for a name that the hub does not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO: {first_line(error)}; write OWNER/NAME") from None
    if "/" not in repo:
        raise UserError(f"REPO: {repo!r} is no repository of the hub; write OWNER/NAME")


def _gather(target: Target, run: Path, step: int, repo: str, folder: Path) -> list[str]:
    """Copies the files that a model needs, with a new model card and the run's settings; returns what it leaves."""
    source = target.adapter or Path(target.model)
    left = []
    for path in sorted(source.iterdir()):
        if _OF_A_MODEL.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            shutil.copy(path, folder / path.name)
        elif path.name not in _OURS:
            left.append(path.name)
    config = recorded_config(run)
    if (adapter := folder / "adapter_config.json").exists():
        write_json(adapter, read_json(adapter) | {"base_model_name_or_path": public(config.model)})
    settings = public(config.model_dump(mode="json"))
    (folder / "phf-config.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    (folder / "README.md").write_text(card_of(run, step, repo), encoding="utf-8")
    return left


def _upload(folder: Path, repo: str, private: bool, message: str) -> None:
    if not hub_answers():
        raise FaultError(
            "the hub cannot be reached; try again on a machine with a connection, or list the files with a dry run"
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"phf: {message}")
    except LocalTokenNotFoundError as error:
        raise UserError(f"{repo}: {first_line(error)}; log in with `hf auth login`") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _OF_THE_TOKEN:
            raise UserError(f"{repo}: the hub refuses: {first_line(error)}; `hf auth login` may help") from None
        raise FaultError(
            f"{repo}: the hub answers with status {status}: {first_line(error)}; try again later"
        ) from None
    except (OSError, MemoryError):  # of this machine; those of the hub's client are HfHubHTTPError
        raise
    except Exception as error:  # no JSON, a lost connection, a failed upload: each library has errors of its own
        raise FaultError(
            f"{repo}: the upload has failed: {type(error).__name__}: {first_line(error)}; try again"
        ) from None


_OF_THE_TOKEN = (401, 403, 404)  # the statuses of a hub that asks for another token, or another name
