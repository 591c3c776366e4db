"""What reads a model's hidden states, where its blocks are computed elsewhere: its final norm and its head."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from transformers.utils import logging

from phfcli.core.config import ModelSettings
from phfcli.core.models.description import auto_class, from_hub, load_description, pick_device, pick_dtype, text_config
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.weights import check_complete, check_finite, check_format

_PER_BLOCK = ("layer_types", "mlp_layer_types", "layers_block_type")  # lists of a config, an entry a block


def load_blockless(settings: ModelSettings) -> LanguageModel:
    """The model without a block: its final norm and head on their device, frozen. The description is the whole model's.

    Raises:
        UserError: where the model cannot be found or read, or its head lacks weights.
    """
    description, device = load_description(settings.model), pick_device(settings.device)
    check_format(settings.model)
    config = deepcopy(description.config)
    text = text_config(config)
    text.num_hidden_layers = 0
    for name in _PER_BLOCK:
        if getattr(text, name, None):
            setattr(text, name, [])
    causal: Any
    with _without_report():
        causal, found = from_hub(
            auto_class(config).from_pretrained,
            settings.model,
            "head",
            config=config,
            dtype=pick_dtype(settings.dtype, device),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_complete(settings.model, {**found, "unexpected_keys": ()})  # those of the blocks
    check_finite(settings.model, causal.named_parameters())
    causal.eval().requires_grad_(False)
    model = LanguageModel(causal, causal, description)
    causal.get_output_embeddings().to(device)
    model.final_norm.to(device)
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' report of what a file holds beyond the model: here that is every block."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
