"""Checkpoints: plain PEFT adapter folders with the trainer's state beside the weights, and how to find them.

step-000100/  adapter_config.json, adapter_model.safetensors, tokenizer files      what PEFT and vLLM read
              trainer.json, optimizer.safetensors, teacher.safetensors             what a resumed training reads
              ahead.safetensors                                                    with rollout.ahead: the next rollouts

Where all weights train, a checkpoint is a plain transformers folder (config.json, model.safetensors). The trainer's
tensors then lie in the subfolder state/, because vLLM takes every safetensors file beside a model for a part of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.errors import UserError, first_line
from phfcli.core.models.description import auto_class, generation_config
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.sharding import spread_like
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.runs.folder import AHEAD, check_sums, checkpoints_of
from phfcli.core.storage.files import new_folder, remove_all, unused
from phfcli.core.storage.schemas import TrainerForm, read_form
from phfcli.core.storage.seals import sums_of, write_sealed
from phfcli.core.storage.tensors import give_parts, read_tensors, whole, write_tensors

_ONE_FILE = "10TB"  # a shard size that no model exceeds, so that transformers writes a single file
_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's two moments of a parameter, in the parameter's shape


class MismatchError(UserError):
    """The checkpoint is complete, but it does not fit the present settings of the run."""


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    teacher: Teacher,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    ahead: Mapping[str, Tensor],
) -> None:
    """Writes a checkpoint atomically: the folder appears under its name only when it is complete.

    Args:
        state: what trainer.json says besides the checksums.
        ahead: tensors of the next step's rollouts, with the setting rollout.ahead; else empty.
    """
    with new_folder(folder) as target:
        save_weights(model, target)
        model.description.tokenizer.save_pretrained(target)
        write_tensors(_state(target, model) / "teacher.safetensors", teacher.state_dict())
        write_tensors(_state(target, model) / "optimizer.safetensors", _optimizer_tensors(optimizer, model))
        if ahead:
            write_tensors(_state(target, model) / AHEAD, ahead)
        write_sealed(target / "trainer.json", {**state, "sha256": sums_of(target, target.rglob("*"))})


def give_checkpoint_parts(model: LanguageModel, teacher: Teacher, optimizer: torch.optim.Optimizer) -> None:
    """Takes part in gathering sharded weights: the other ranks call this while the main rank saves the checkpoint."""
    _gathered(model, keep=False)
    give_parts(teacher.state_dict())
    give_parts(_optimizer_tensors(optimizer, model))


def load_checkpoint(
    folder: Path, model: LanguageModel, teacher: Teacher, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Loads a checkpoint's weights, teacher and optimiser state in place; returns what trainer.json says.

    Raises:
        MismatchError: a file of another model, or of a run with another teacher or optimiser.
        UserError: a file that is missing or damaged. In either case nothing has been changed.
    """
    trainable = model.trainable()
    state = read_form(folder / "trainer.json", TrainerForm)
    check_sums(folder)
    weights = _read_weights(folder, model)
    averages = _read_like(_state(folder, model) / "teacher.safetensors", teacher.state_dict())
    optimized = _state(folder, model) / "optimizer.safetensors"
    moments = read_tensors(optimized)  # a parameter that never got a gradient has no moments
    stepped = {name: p for name, p in trainable.items() if f"{name}:step" in moments}
    _check_like(optimized, moments, {f"{name}:{key}": p for name, p in stepped.items() for key in _MOMENTS})
    with torch.no_grad():
        for name, p in trainable.items():
            p.copy_(spread_like(p, weights[name]))
    teacher.load_state_dict(averages)
    _load_optimizer_tensors(optimizer, model, moments)
    return state


def load_ahead(folder: Path, model: LanguageModel) -> dict[str, Tensor]:
    """The tensors of the next step's rollouts that a checkpoint holds; empty if it holds none."""
    path = _state(folder, model) / AHEAD
    return read_tensors(path) if path.is_file() else {}


def save_weights(model: LanguageModel, folder: Path) -> None:
    """Writes the adapter as PEFT does, or the whole model as transformers does."""
    if model.has_adapter:
        model.network.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    else:
        weights = _gathered(model, keep=True) if model.fully_sharded else None
        model.network.save_pretrained(str(folder), state_dict=weights, max_shard_size=_ONE_FILE)
        generation_config(model.description.name, model.description.config).save_pretrained(folder)


def _gathered(model: LanguageModel, keep: bool) -> dict[str, Tensor]:
    """Gathers sharded weights one after the other. With `keep` they stay in CPU memory, else they are dropped."""
    kept: dict[str, Tensor] = {}
    first: dict[int, str] = {}  # id of a weight -> its first name: modules may share a weight
    for name, tensor in model.network.state_dict(keep_vars=True).items():
        first_name = first.setdefault(id(tensor), name)
        if first_name != name and keep:
            kept[name] = kept[first_name]
        elif first_name == name:
            gathered = whole(tensor.detach())
            if keep:
                kept[name] = gathered.cpu()
    return kept


def prune_checkpoints(run: Path, keep: int | None, best: int | None = None) -> None:
    """Removes the checkpoints of a run except the newest `keep` and that of the step `best`; keep=None removes none."""
    for step, folder in checkpoints_of(run)[:-keep] if keep else []:
        if step != best:
            with unused(folder / "trainer.json") as free:  # a checkpoint under evaluation is removed a later time
                if free:
                    remove_all([folder])


def set_aside(folder: Path) -> Path:
    """Renames an unreadable checkpoint, so that neither evaluation nor `prune_checkpoints` counts it."""
    aside = folder.with_name(f"damaged-{folder.name}")
    if aside.exists():
        remove_all([aside])
    return folder.rename(aside)


def _state(folder: Path, model: LanguageModel) -> Path:
    """The folder that holds the trainer's tensors of a checkpoint."""
    return folder if model.has_adapter else folder / "state"


def _read_weights(folder: Path, model: LanguageModel) -> dict[str, Tensor]:
    """The trainable parameters of a checkpoint by their names in the model.

    Raises:
        UserError: weights of another model, or a file that cannot be read.
    """
    if model.has_adapter:
        names = {
            name: name.replace(".default.", ".") for name in model.trainable()
        }  # PEFT saves without the adapter's name
        wanted = {names[name]: p for name, p in model.trainable().items()}
        tensors = _read_like(folder / "adapter_model.safetensors", wanted)
        return {name: tensors[saved] for name, saved in names.items()}
    path = folder / "model.safetensors"
    try:  # transformers may save under other names than the modules have, so it has to read them back itself
        loader = auto_class(model.description.config)
        loaded: Any = loader.from_pretrained(folder, dtype=model.head.dtype, output_loading_info=True)
    except Exception as error:  # safetensors and torch raise different errors for a damaged file
        raise UserError(f"{path}: damaged or incomplete: {first_line(error)}") from None
    saved, info = loaded
    if info["missing_keys"] or info["mismatched_keys"]:
        raise MismatchError(f"{path}: not a checkpoint of this model: weights are missing or have another shape")
    return dict(saved.named_parameters())


def _read_like(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file. Raises MismatchError unless the file holds every wanted tensor in its shape."""
    tensors = read_tensors(path)
    _check_like(path, tensors, wanted)
    return tensors


def _check_like(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, like in wanted.items():
        if name not in tensors or tensors[name].shape != like.shape:
            raise MismatchError(f"{path}: not a checkpoint of this model: {name} is missing or has another shape")


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
        optimizer.state[p][field] = value if value.dim() == 0 else spread_like(p, value.to(p.device))
