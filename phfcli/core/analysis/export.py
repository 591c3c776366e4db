"""Exports a checkpoint as a plain model folder, with the adapter folded into the weights."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.adapters.files import check_adapter
from phfcli.core.models.description import generation_config, load_config, load_description
from phfcli.core.models.loading import load_model
from phfcli.core.runs.checkpoint_choice import find_target
from phfcli.core.storage.files import new_folder
from phfcli.core.storage.writable import check_folder


def export_merged(name: str, folder: Path, base: str | None = None) -> torch.dtype:
    """Writes the model to a folder that must be new or empty; returns the precision of its weights.

    The sum is taken in float32 and rounded once, to the precision of the base's own files; so are weights that were
    trained whole.

    Raises:
        UserError: for a target without an adapter, an adapter of another model, or a folder that holds something.
    """
    target = find_target(name, base)
    if target.plain:
        raise UserError(f"{name}: is a plain model already; export takes a run, a checkpoint or an adapter")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--merged {folder}: is not empty; choose another folder")
    check_folder("--merged", folder)
    description = load_description(target.model)
    if target.adapter is not None:
        check_adapter(target.adapter, description)
    own = load_config(target.origin).dtype
    dtype = own if isinstance(own, torch.dtype) else torch.float32
    model = load_model(ModelSettings(model=target.model, dtype="float32", device="cpu"), target.adapter)
    network = model.network
    merged: PreTrainedModel = network.merge_and_unload(safe_merge=True) if isinstance(network, PeftModel) else network
    merged = torch.nn.Module.to(merged, dtype)
    merged.generation_config = generation_config(target.origin, merged.config)
    with new_folder(folder) as temporary:
        merged.save_pretrained(temporary)
        description.tokenizer.save_pretrained(temporary)
    return dtype
