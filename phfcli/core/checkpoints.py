"""Checkpoints: plain PEFT adapter folders with the trainer's state beside the weights, and how to find them.

step-000100/  adapter_config.json, adapter_model.safetensors, tokenizer files      what PEFT and vLLM read
              trainer.json, optimizer.safetensors, teacher.safetensors             what --resume reads
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from phfcli.core.errors import UserError
from phfcli.core.files import new_folder, read_json, remove_folder, write_json
from phfcli.core.models import LanguageModel
from phfcli.core.resources import EMBEDDED, is_run
from phfcli.core.teachers import Teacher
from phfcli.core.tensors import read_tensors, write_tensors

_STEP = re.compile(r"step-(\d{6,})")
_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of a parameter's shape


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    teacher: Teacher,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Writes a checkpoint; it appears under its name only when it is complete."""
    assert isinstance(model.network, PeftModel)
    with new_folder(folder) as target:
        model.network.save_pretrained(str(target), save_embedding_layers=False)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        model.card.tokenizer.save_pretrained(target)
        write_tensors(target / "teacher.safetensors", teacher.state_dict())
        write_tensors(target / "optimizer.safetensors", _optimizer_tensors(optimizer, model))
        write_json(target / "trainer.json", state)


def load_checkpoint(
    folder: Path, model: LanguageModel, teacher: Teacher, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Puts a checkpoint's weights, teacher and optimiser in place; returns the state that was saved with them.

    Raises:
        UserError: for a file that is missing, damaged or of another model. Nothing has been put in place then.
    """
    trainable = model.trainable()
    state: dict[str, Any] = read_json(folder / "trainer.json")
    weights = _read_like(
        folder / "adapter_model.safetensors",
        {name.replace(".default.", "."): p for name, p in trainable.items()},  # PEFT leaves the adapter's name out
    )
    averages = _read_like(folder / "teacher.safetensors", teacher.state_dict())
    moments = _read_like(
        folder / "optimizer.safetensors", {f"{name}:{key}": p for name, p in trainable.items() for key in _MOMENTS}
    )
    with torch.no_grad():
        for name, p in trainable.items():
            p.copy_(weights[name.replace(".default.", ".")])
    teacher.load_state_dict(averages)
    _load_optimizer_tensors(optimizer, model, moments)
    return state


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a run, oldest first."""
    found = []
    for path in (run / "checkpoints").glob("step-*"):
        match = _STEP.fullmatch(path.name)
        if match and (path / "trainer.json").is_file():
            found.append((int(match[1]), path))
    return sorted(found)


def prune_checkpoints(run: Path, keep: int | None) -> None:
    """Removes all but the newest `keep` checkpoints; None keeps all."""
    for _, folder in checkpoints_of(run)[:-keep] if keep else []:
        remove_folder(folder)


def set_aside(folder: Path) -> Path:
    """Renames a checkpoint that cannot be read: neither evaluation nor the keep rule may take it for a good one."""
    aside = folder.with_name(f"damaged-{folder.name}")
    if aside.exists():
        remove_folder(aside)
    return folder.rename(aside)


@dataclass(frozen=True)
class Target:
    """What `phf eval` was pointed at."""

    name: str  # short, for folders and tables
    model: str  # the base model
    adapter: Path | None = None
    run: Path | None = None
    step: int | None = None
    newest: bool = True  # of its run's checkpoints


def find_target(text: str, base: str | None = None) -> Target:
    """A run (its newest checkpoint), a checkpoint, an adapter folder or a plain model.

    base: the model under an adapter, where it is not the one that the adapter names.

    Raises:
        UserError: for a run without checkpoints, or an adapter without its weights: the base model alone is
            never evaluated in an adapter's name.
    """
    path = Path(text)
    if is_run(path):
        checkpoints = checkpoints_of(path)
        if not checkpoints:
            raise UserError(f"{text}: the run has no complete checkpoint yet")
        return _adapter_target(checkpoints[-1][1], base)
    if (path / "adapter_config.json").is_file():
        return _adapter_target(path, base)
    if (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{text}: an adapter without its adapter_config.json")
    if base is not None:
        raise UserError(f"--base: {text} is not an adapter, so it has no base model")
    return Target(name=EMBEDDED if text == EMBEDDED else path.name, model=text)


def _adapter_target(path: Path, base: str | None) -> Target:
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{path}: an adapter without its weights (adapter_model.safetensors is missing)")
    read_tensors(path / "adapter_model.safetensors")
    if not _STEP.fullmatch(path.name):  # such as "."
        path = path.resolve()
    match = _STEP.fullmatch(path.name)
    if match and path.parent.name == "checkpoints" and (path / "trainer.json").is_file():
        run = path.parents[1]
        newest = checkpoints_of(run)[-1][1] == path
        model = base or str(read_json(path / "trainer.json")["model"])
        return Target(run.name, model, adapter=path, run=run, step=int(match[1]), newest=newest)
    model = base or read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not model:
        raise UserError(f"{path / 'adapter_config.json'}: base_model_name_or_path is missing; name it with --base")
    return Target(path.name, str(model), adapter=path)


def _read_like(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file. Raises UserError unless every wanted one is among them, in its shape."""
    tensors = read_tensors(path)
    for name, like in wanted.items():
        if name not in tensors or tensors[name].shape != like.shape:
            raise UserError(f"{path}: not a checkpoint of this model: {name} is missing or has another shape")
    return tensors


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: LanguageModel) -> dict[str, Tensor]:
    tensors = {}
    for name, p in model.trainable().items():
        for key, value in optimizer.state[p].items():
            tensors[f"{name}:{key}"] = value
    return tensors


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: LanguageModel, tensors: dict[str, Tensor]) -> None:
    trainable = model.trainable()
    for key, value in tensors.items():
        name, _, field = key.rpartition(":")
        p = trainable[name]
        # AdamW keeps its step counter on the CPU
        optimizer.state[p][field] = value if value.dim() == 0 else value.to(p.device)
