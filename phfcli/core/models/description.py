"""A model before any weight is loaded: its config, its sizes, its tokenizer."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from phfcli.core.errors import UnreachableError, UserError, first_line
from phfcli.core.models.prompts import turn_ends
from phfcli.core.shipped_files import EMBEDDED, embedded_model
from phfcli.core.storage.files import check_regular
from phfcli.core.storage.tables import hub_answers

UNBOUNDED = 2**31 - 1  # tokens: a state-space model has no longest sequence
_CONTEXTS = ("max_position_embeddings", "max_seq_len", "seq_length")
_MOST_ON_CPU = 500_000_000  # parameters of a model that a CPU trains in days
# kinds of layers that keep no keys and values: their state does not grow with the sequence
_WITHOUT_CACHE = ("linear_attention", "conv", "mamba", "moe", "mlp", "recurrent")


def text_config(config: PreTrainedConfig) -> Any:
    """The config of the text model; a multimodal model keeps it as a part of its own."""
    return config.get_text_config(decoder=True)


def depth_of(config: PreTrainedConfig) -> int:
    """The number of decoder blocks."""
    return int(text_config(config).num_hidden_layers)


def width_of(config: PreTrainedConfig) -> int:
    """The size of a hidden state."""
    return int(text_config(config).hidden_size)


def context_of(config: PreTrainedConfig) -> int:
    """The longest sequence that a model was trained for, in tokens; UNBOUNDED where the config names none."""
    text = text_config(config)
    return next((int(value) for name in _CONTEXTS if (value := getattr(text, name, None))), UNBOUNDED)


def rotation_switch(config: PreTrainedConfig) -> int | None:
    """The length in tokens beyond which one sequence changes how its whole batch is read; None for most models.

    For the kinds "longrope" and "dynamic" transformers chooses the rotary angles of a batch by its longest sequence.
    """
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [own for own in rope.values() if isinstance(own, dict)]  # by layer type
    switches = [
        int(own.get("original_max_position_embeddings") or text.max_position_embeddings)
        for own in kinds
        if own.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(switches, default=None)


def caps_attention(config: PreTrainedConfig) -> bool:
    """Whether the attention logits are capped, as Gemma 2's are: PyTorch's sdpa silently leaves the cap out."""
    return getattr(text_config(config), "attn_logit_softcapping", None) is not None


def attends_in_part(config: PreTrainedConfig) -> bool:
    """Whether some layers do not attend to all earlier tokens: windows, chunks, or a state in place of attention."""
    text = text_config(config)
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    kinds = set(getattr(text, "layer_types", None) or [])
    return bool(window or getattr(text, "attention_chunk_size", None) or kinds - {"full_attention"})


def cache_row_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of keys and values for each token of a sequence."""
    text, depth = text_config(config), depth_of(config)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ["attention"] * depth
    layers = list(text.per_layer_config) if getattr(text, "per_layer_attributes", None) else [text] * depth
    cached = (_cached(layer) for layer, kind in zip(layers, kinds, strict=False) if kind not in _WITHOUT_CACHE)
    return itemsize * sum(cached)


def _cached(layer: Any) -> int:
    """Numbers that a layer keeps of each token."""
    heads = getattr(layer, "num_attention_heads", None)
    if not heads:
        return 0
    if getattr(layer, "kv_lora_rank", None):  # transformers keeps latent attention's keys and values unfolded
        return int(heads * (layer.qk_nope_head_dim + layer.qk_rope_head_dim + layer.v_head_dim))
    head_dim = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    return int(2 * (getattr(layer, "num_key_value_heads", None) or heads) * head_dim)


LOADING = threading.RLock()  # transformers and PEFT change the state of torch while they load: one at a time
_TEXT_BYTES = 2**29  # of a model's tokenizer or configuration
_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # of a repository; no code, no pickle


@dataclass(frozen=True)
class ModelDescription:
    """A model without its weights.

    Attributes:
        name: as the user gave it: a hub id, a folder or "embedded".
        eos_ids: the ids of every token that ends a completion.
    """

    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]

    @property
    def context(self) -> int:
        """The longest sequence that the model was trained for, in tokens."""
        return context_of(self.config)

    @property
    def vocabulary(self) -> int:
        """The number of token ids that the model knows, which begin at 0."""
        return int(self.config.get_text_config().vocab_size)

    @property
    def pad_id(self) -> int:
        """The token id that pads batches; masks hide it from every pass."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else min(self.eos_ids)

    def text(self, ids: Sequence[int]) -> str:
        """A completion as text, thinking included, without its end token."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def load_description(name: str) -> ModelDescription:
    """The model of that name without its weights.

    Raises:
        UserError: where neither a folder nor the hub has its config and tokenizer.
    """
    config, tokenizer = load_config(name), load_tokenizer(name)
    return ModelDescription(name, config, tokenizer, _eos_ids(name, config, tokenizer))


def locate(name: str) -> str:
    """The folder or hub id of a model's name. Raises UserError for a path where no model is."""
    if name == EMBEDDED:
        return str(embedded_model())
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: the folder holds no config.json, so it is not a model{_nor_a_run(path)}")
        for file in path.iterdir():  # libraries wait for a pipe, and read a device without an end
            if file.exists() and not file.is_dir():
                check_regular(file, _TEXT_BYTES if file.suffix in (".json", ".jinja", ".txt") else None)
        return str(path.resolve())
    if path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"{name}: no such model folder")
    return name


def _nor_a_run(folder: Path) -> str:
    return "" if (folder / "config.yaml").is_file() else ", and no config.yaml, so it is not a run"


def fetch(name: str) -> Path:
    """A folder with all of a model's files, from the hub or its cache where it is not one already.

    Raises:
        UserError: where the hub does not provide them, or none of them is a safetensors file.
    """
    where = Path(locate(name))
    if not where.is_dir():
        where = Path(from_hub(_download, name, "weights"))
    if not any(where.glob("*.safetensors")):
        raise UserError(f"{name}: it has no .safetensors weights, and no other kind is read")
    return where


def revision(name: str) -> str | None:
    """The commit of a hub model whose config has been loaded; None for a folder."""
    path = try_to_load_from_cache(locate(name), "config.json")
    return Path(path).parent.name if isinstance(path, str) else None


def stable_name(name: str) -> str:
    """A model's name that means the same from any working directory."""
    return name if name == EMBEDDED else locate(name)


def load_config(name: str) -> PreTrainedConfig:
    """The model's architecture. Raises UserError where neither folder nor hub has it."""
    config: PreTrainedConfig = from_hub(AutoConfig.from_pretrained, name, "model", trust_remote_code=False)
    return config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's own tokenizer."""
    tokenizer: PreTrainedTokenizerBase = from_hub(
        AutoTokenizer.from_pretrained, name, "tokenizer", trust_remote_code=False
    )
    return tokenizer


def generation_config(name: str, config: PreTrainedConfig) -> GenerationConfig:
    """A model's sampling defaults: training and evaluation ignore them, an export keeps them for other tools."""
    try:
        saved: GenerationConfig = GenerationConfig.from_pretrained(locate(name))
    except OSError:  # the model has no generation_config.json
        saved = GenerationConfig.from_model_config(config)
    return saved


def skeleton(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model's modules with their shapes, without weights.

    Raises:
        UserError: for a config that describes no model.
    """
    try:
        with LOADING, torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=False, dtype=dtype)
    except Exception as error:  # a config that contradicts itself can fail anywhere in the model's code
        where = f"{config.name_or_path}: its config.json" if config.name_or_path else f"a config of {config.model_type}"
        raise UserError(f"{where} describes no model: {type(error).__name__}: {first_line(error)}") from None
    return model


def wants_gpu(config: PreTrainedConfig) -> bool:
    """Whether a model is too large to be trained on a CPU, so that a plan of it is one for a GPU."""
    return sum(p.numel() for p in skeleton(config).parameters()) > _MOST_ON_CPU


def auto_class(config: PreTrainedConfig) -> Any:
    """The class that loads a model of that config: a language model, or a multimodal model that contains one."""
    return AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText


def from_hub(loader: Any, name: str, what: str, **options: Any) -> Any:
    """What `loader` returns for a model's folder or hub id; any failure becomes one UserError that names `what`."""
    where = locate(name)
    local = Path(where).is_dir()
    answers = local or hub_answers()
    try:
        with LOADING:
            return loader(where, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the hub's client, transformers, safetensors and torch each raise errors of their own
        if not answers:
            raise UnreachableError(f"{name}: no such folder, and the hub cannot be reached for its {what}") from None
        where = "its folder" if local else "the hub"
        raise UserError(f"{name}: its {what} cannot be loaded from {where}: {first_line(error)}") from None


def _download(name: str) -> str:
    return snapshot_download(name, allow_patterns=list(_FILES))


def _eos_ids(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a completion: the tokenizer's, the generation config's, and the chat template's turn ends."""
    try:
        saved = GenerationConfig.from_pretrained(locate(name)).eos_token_id
    except OSError:  # a model need not have a generation_config.json
        saved = text_config(config).eos_token_id
    ends = turn_ends(tokenizer) if tokenizer.chat_template else set()
    eos = {tokenizer.eos_token_id, *([saved] if isinstance(saved, int) else saved or []), *ends} - {None}
    if not eos:
        raise UserError(f"{name}: neither the model nor its tokenizer names an end-of-sequence token")
    return frozenset(eos)
