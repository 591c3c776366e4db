"""A checkpoint as a plain model: the adapter folded into the weights, for tools that know no adapters."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from phfcli.core.adapters import check_adapter
from phfcli.core.cards import load_card, locate
from phfcli.core.checkpoints import find_target
from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.files import new_folder
from phfcli.core.models import load_model


def export_merged(name: str, folder: Path, base: str | None = None) -> torch.dtype:
    """Writes the model to a folder that must be new or empty; returns the precision of its weights.

    The sum is taken in float32 and rounded once, to the precision of the base's own files.

    Raises:
        UserError: for a target without an adapter, an adapter of another model, or a folder that holds something.
    """
    target = find_target(name, base)
    if target.adapter is None:
        raise UserError(f"{name}: is a plain model already; export takes a run, a checkpoint or an adapter")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--merged {folder}: is not empty; choose another folder")
    card = load_card(target.model)
    check_adapter(target.adapter, card)
    dtype = card.config.dtype if isinstance(card.config.dtype, torch.dtype) else torch.float32
    model = load_model(ModelSettings(model=target.model, dtype="float32", device="cpu"), target.adapter)
    assert isinstance(model.network, PeftModel)
    merged: PreTrainedModel = model.network.merge_and_unload(safe_merge=True).to(dtype)
    _restore_generation_config(merged, target.model)
    with new_folder(folder) as temporary:
        merged.save_pretrained(temporary)
        card.tokenizer.save_pretrained(temporary)
    return dtype


def _restore_generation_config(model: PreTrainedModel, base: str) -> None:
    """Training and evaluation drop a model's own sampling defaults; other tools expect them."""
    try:
        model.generation_config = GenerationConfig.from_pretrained(locate(base))
    except OSError:  # the base has none of its own
        model.generation_config = GenerationConfig.from_model_config(model.config)
