"""What an evaluation is of: the model's files, and the form in which they are computed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.models.description import pick_device, pick_dtype
from phfcli.core.runs.checkpoint_choice import Target
from phfcli.core.runs.provenance import model_identity
from phfcli.core.runs.run_folder import recorded_config
from phfcli.core.storage.files import file_hash
from phfcli.core.storage.schemas import AdapterForm, ManifestForm, read_form


def identity_of(config: EvalConfig, target: Target) -> dict[str, Any]:
    """What must not change between two parts of one evaluation."""
    return {
        "model": model_identity(target.model),
        "adapter_sha256": file_hash(target.adapter / "adapter_model.safetensors") if target.adapter else None,
        "adapter_config": _adapter_config_hash(target.adapter) if target.adapter else None,
        "dtype": str(pick_dtype(config.dtype, pick_device(config.device))),
        "quantization": config.quantization,
    }


def _adapter_config_hash(adapter: Path) -> str:
    """A hash of what an adapter's config says; the order of its keys and lists means nothing and is not stable."""

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(value[key]) for key in sorted(value)}
        return sorted(map(ordered, value), key=json.dumps) if isinstance(value, list) else value

    return hashlib.sha256(
        json.dumps(ordered(read_form(adapter / "adapter_config.json", AdapterForm))).encode()
    ).hexdigest()


def check_base(target: Target, model: Mapping[str, Any]) -> None:
    """Raises UserError where an adapter of a run is put on other weights than those it was trained on."""
    if target.run is None:
        return
    trained_on = read_form(target.run / "manifest.json", ManifestForm)["model"]
    for key in ("sha256", "revision"):
        if key in trained_on and key in model and trained_on[key] != model[key]:
            raise UserError(
                f"{target.adapter}: was trained on {trained_on['name']} with {key} {trained_on[key]}, "
                f"and {target.model} has {model[key]}; name the right base model with --base"
            )


def trained_otherwise(config: EvalConfig, target: Target) -> str | None:
    """A sentence where an adapter was trained over its base in another form than it is evaluated over."""
    if target.run is None or target.adapter is None:
        return None
    trained, own = recorded_config(target.run).quantization, config.quantization
    if trained == own:
        return None
    words = {"none": "as it stands"}
    return (
        f"{target.name} was trained over its base {words.get(trained, f'in {trained}')} and is evaluated over it "
        f"{words.get(own, f'in {own}')}; --set quantization={trained} takes the former"
    )
