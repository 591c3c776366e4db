"""Checks before training that what this program computes equals what the model's own code computes.

The losses never ask the model for logits: they compute them from the last hidden states, the head, and the scale and
cap that head_of finds. States are captured from the blocks that find_blocks finds. A short text is passed through both.

Packed rows, shared prefixes, the key-value cache of rollouts and the logit lens are tried on a small random model of
the same config, against eager attention to one sequence at a time. (kernels.py tries its own forms of layers.)
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from phfcli.core.errors import UserError, first_line
from phfcli.core.losses.pointwise import Attention, attention_logits
from phfcli.core.models.architecture import final_norm, find_blocks, find_decoder
from phfcli.core.models.cached_attention import KeyValueCache, ReadPrompts, next_tokens
from phfcli.core.models.description import attends_in_part, text_config, width_of
from phfcli.core.models.device import same_random_state
from phfcli.core.models.language_model import (
    PACKING_SDPA,
    LanguageModel,
    capture_attention,
    capture_states,
    lens_layer,
)
from phfcli.core.models.packing import CausalSequences, in_window, pack, packed_arguments, row_arguments

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

TOKENS = 16
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative to the largest value
_COARSE = 5e-2  # in a lower precision


@torch.no_grad()
def check_computation(model: LanguageModel) -> None:
    """Passes a few tokens through a model in evaluation mode.

    Raises:
        UserError: where the model's head, blocks or attention compute something else than this program assumes.
    """
    ids = torch.arange(TOKENS, device=model.device)[None] % len(model.output_head)
    hidden, states = _pass(model, ids)
    with model.computing():
        output = model.causal(input_ids=ids, use_cache=False, output_hidden_states=True)
    if not _equal(model.output_head.logits(hidden), output.logits):
        raise UserError(
            f"{model.description.name}: its code does more between hidden states and logits than this program knows of "
            f"{type(model.causal).__name__}, so the losses would be of other logits; use another model"
        )
    _check_states(model, states, hidden, output.hidden_states or ())
    _check_attention(model, ids)


def _check_attention(model: LanguageModel, ids: Tensor) -> None:
    """Compares with the model's eager attention, where it has one: a kernel may leave out what it does not support.

    Each block is compared on the same input: over the depth of a real model, bfloat16 roundings grow to any size.
    """
    if model.attention == "eager":
        return
    set_before, shown = model.causal.config._attn_implementation, model.attention
    inputs, outputs = _through_blocks(model, ids)
    try:
        model.causal.set_attn_implementation("eager")
    except (ValueError, NotImplementedError):  # the model has no eager attention
        return
    try:
        _, expected = _through_blocks(model, ids, inputs)
    finally:
        model.causal.set_attn_implementation(set_before)
    tolerance = _tolerance(outputs[0].dtype, model.compute or outputs[0].dtype)
    if any(not _equal_by_token(output, eager, tolerance) for output, eager in zip(outputs, expected, strict=True)):
        raise UserError(
            f"{model.description.name}: attention by {shown} computes something else than the code of "
            f"{type(model.causal).__name__}; use attention=eager"
        )


def _through_blocks(
    model: LanguageModel, ids: Tensor, given: Sequence[Tensor] = ()
) -> tuple[list[Tensor], list[Tensor]]:
    """Input and output of each block, both [1, T, d]; with `given`, each block reads its entry of it instead."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def before(_block: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        state = args[0] if args else kwargs["hidden_states"]
        inputs.append(given[len(inputs)] if given else state.clone())
        return ((inputs[-1], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": inputs[-1]})

    def after(_block: nn.Module, _args: Args, output: Any) -> None:
        outputs.append((output if isinstance(output, Tensor) else output[0]).clone())

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in model.blocks]
    hooks += [block.register_forward_hook(after) for block in model.blocks]
    try:
        with model.computing():
            model.backbone(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, outputs


def _pass(model: LanguageModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states [1, T, d] and the states of all blocks [L, 1, T, d], captured as in training."""
    columns = torch.arange(TOKENS, device=model.device)[None]
    rows = torch.zeros_like(columns)
    try:
        with model.computing(), capture_states(list(model.blocks), (rows, columns)) as stack:
            hidden: Tensor = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
            return hidden, stack()
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{model.description.name}: the blocks of {type(model.causal).__name__} do not each give a hidden "
            f"state for each token ({first_line(error)}); use another model"
        ) from None


def _check_states(model: LanguageModel, states: Tensor, hidden: Tensor, expected: Sequence[Tensor]) -> None:
    """Compares states [L, 1, T, d] with `expected`, which begins with the embeddings or, as Mamba's, with block 1."""
    kind, name = type(model.causal).__name__, model.description.name
    if len(expected) == len(states) + 1:
        wrong = min(_unequal(states[:-1], expected[1:-1]), _unequal(states, expected[:-1]), key=len)
        if wrong:
            raise UserError(
                f"{name}: the output of block {wrong[0]} of {kind} is not its hidden state; use another model"
            )
    with model.computing():
        normed = model.final_norm(states[-1])
    if not _equal(normed, hidden):
        raise UserError(f"{name}: the last block of {kind}, normed, is not what its head reads; use another model")


def _unequal(states: Tensor, expected: Sequence[Tensor]) -> list[int]:
    """The numbers of the blocks, 1 is the first, whose states differ."""
    pairs = zip(states, expected, strict=True)
    return [number for number, (state, other) in enumerate(pairs, start=1) if not _equal(state, other)]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    difference = (one.float() - other.float()).abs().max()
    return bool(difference <= _tolerance(one.dtype, other.dtype) * other.float().abs().max())


def _equal_by_token(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Compares the norm of each token's state: one token's huge value does not hide differences at the others."""
    difference = (one.float() - other.float()).norm(dim=-1)
    return bool((difference <= tolerance * other.float().norm(dim=-1)).all())


def _tolerance(*dtypes: torch.dtype) -> float:
    return max(_TOLERANCE.get(dtype, _COARSE) for dtype in dtypes)


_LIMIT = 1e-5  # relative, in float32; right fast paths agree to about 1e-6
_LIMIT_COARSE = 2e-2  # in a lower precision
_WINDOW = 8  # tokens, of the small model where its config has a window
_LARGEST = 30_000_000  # parameters of a small model; where its config cannot be made smaller, there is none
_VOCABULARY, _INNER = 64, 32  # of the small model: token ids, and the width of an MLP
_LONG = [1 + 7 * token % 61 for token in range(27)]
# several times the window, of different lengths; the second begins as the first, the last is within the window
_SEQUENCES = (_LONG, [*_LONG[:12], *_LONG[5:12]], _LONG[::-1][:17], _LONG[9:15])
_AFTER_PROMPT = 4  # tokens of each sequence that are read one at a time, as rollouts read them


@dataclass(frozen=True)
class FastPaths:
    """Which computations give what eager attention to one sequence at a time gives.

    Attributes:
        packing: packed rows, prefixes that are computed once, and the key-value cache of rollouts.
        lens: the attention that is computed from captured queries and keys.
    """

    packing: bool
    lens: bool


_of_configs: dict[str, FastPaths] = {}
_tried: WeakSet[PreTrainedModel] = WeakSet()


def can_pack(model: LanguageModel) -> bool:
    """Whether a packed row of this model gives what its sequences give alone.

    A config is tried once. A model that passes keeps the attention that knows packed rows; other models of the
    process, and models that fail, keep transformers' own.
    """
    if model.causal not in _tried:
        _tried.add(model.causal)
        replaceable = model.attention == "sdpa" and model.causal._supports_attention_backend
        if replaceable and fast_paths(model.causal).packing:
            model.causal.set_attn_implementation(PACKING_SDPA)
        elif not model.attention.startswith("flash"):  # FlashAttention leaves padding out by itself
            kind = model.causal.config.model_type
            logging.getLogger(__name__).warning(
                "%s: sequences of one batch are padded, for they cannot be packed", kind
            )
    return bool(model.causal.config._attn_implementation == PACKING_SDPA)


def check_logit_lens(causal: PreTrainedModel, wanted: int) -> None:
    """Raises UserError where no block lies below the last one, or attention cannot be captured; reads no weight."""
    blocks, kind = find_blocks(causal)[1], causal.config.model_type
    depth, norm = len(blocks), final_norm(find_decoder(causal), blocks, width_of(causal.config))
    if lens_layer(wanted, depth) >= depth:
        raise UserError(f"oisd.layer: must lie below the last of the model's {depth} decoder blocks, got {wanted}")
    if attends_in_part(causal.config):
        raise UserError(f"{kind}: some of its blocks attend to a sliding window, which oisd does not know")
    attention = [getattr(block, "self_attn", None) for block in blocks]
    capturable = causal._supports_attention_backend and None not in attention and norm is not None
    if not capturable or not fast_paths(causal).lens:
        raise UserError(f"{kind}: its attention cannot be captured, which oisd needs")


def fast_paths(causal: PreTrainedModel) -> FastPaths:
    """Tries the fast paths of a model's config, once in a process; leaves model and random state as they were."""
    key = f"{causal.device.type} {text_config(causal.config).to_dict()}"
    if key not in _of_configs:
        kind = "cpu" if causal.device.type == "meta" else causal.device.type
        with (
            same_random_state(causal.device),
            torch.enable_grad(),
            torch.autocast(kind, enabled=False),
            warnings.catch_warnings(action="ignore"),
        ):
            torch.manual_seed(0)
            small = _small_model(causal)
            _of_configs[key] = _try_on_itself(causal) if small is None else _try(small)
    return _of_configs[key]


def _small_model(causal: PreTrainedModel) -> PreTrainedModel | None:
    """A random model in float32 with the first blocks of a config, up to one of each kind; None if none can be made."""
    try:
        config = _small_config(causal.config, find_blocks(causal)[1])
        with torch.device("meta"):
            shapes: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
        if sum(p.numel() for p in shapes.parameters()) > _LARGEST:
            return None
        with torch.device("cpu" if causal.device.type == "meta" else causal.device):
            small: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")
    except Exception:  # a config whose sizes depend on each other can fail anywhere in the model's code
        return None
    with torch.no_grad():
        for p in small.parameters():  # of the size that they have after training, where states are about 1
            noise = torch.randn_like(p)
            p.copy_(noise * p.shape[-1] ** -0.5 if p.ndim > 1 else p + 0.1 * noise)
    small.eval()
    return small


def _small_config(config: PreTrainedConfig, blocks: nn.ModuleList) -> PreTrainedConfig:
    """The config with few heads of the same size, a small vocabulary, narrow MLPs and the first blocks."""
    small: PreTrainedConfig = copy.deepcopy(text_config(config))
    depth = _blocks_of_each_kind(blocks)
    heads = small.num_attention_heads
    groups = getattr(small, "num_key_value_heads", None) or heads
    size = getattr(small, "head_dim", None) or small.hidden_size // heads
    few_groups = min(groups, 2)
    few_heads = few_groups * min(heads // groups, 2)
    changes = {
        "vocab_size": _VOCABULARY,
        "num_hidden_layers": depth,
        "num_attention_heads": few_heads,
        "num_key_value_heads": few_groups,
        "hidden_size": few_heads * size,
        "word_embed_proj_dim": few_heads * size,
        "ffn_dim": _INNER,
        "sliding_window": getattr(small, "sliding_window", None) and _WINDOW,
        "attention_chunk_size": getattr(small, "attention_chunk_size", None) and _WINDOW,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "quantization_config")),
    }
    for name, value in list(vars(small).items()):
        if name.endswith("intermediate_size") and isinstance(value, int):
            setattr(small, name, _INNER)
        elif isinstance(value, list) and len(value) == len(blocks):  # an entry for each block
            setattr(small, name, value[:depth])
    for name, change in changes.items():
        if hasattr(small, name):  # some configs map these names to others, which vars() does not tell
            setattr(small, name, change)
    return small


def _blocks_of_each_kind(blocks: nn.ModuleList) -> int:
    """How many of the first blocks hold one of each kind, and at least two."""
    kinds = [_kind(block) for block in blocks]
    return max(2 if len(kinds) > 1 else 1, *(kinds.index(kind) + 1 for kind in kinds))


def _kind(block: nn.Module) -> list[Any]:
    """The classes of a block's modules with their settings, its own number left out."""
    return [
        (name, type(module).__name__, key, value)
        for name, module in block.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | float | str | None) and key not in ("layer_idx", "layer_id", "training")
    ]


def _try(small: PreTrainedModel) -> FastPaths:
    try:
        wanted = _alone(small)
        with _attending_by(small, PACKING_SDPA):
            packed = _packed(small)
            packing = (
                _agree(packed, wanted, _LIMIT)
                and _agree([_gradient(small, packed)], [_gradient(small, wanted)], _LIMIT)
                and _agree(_cached(small), [states[-_AFTER_PROMPT - 1 :] for states in wanted], _LIMIT)
            )
    except Exception:  # a model that takes no such arguments
        packing = False
    return FastPaths(packing, _lens_agrees(small, _LIMIT))


@torch.no_grad()
def _try_on_itself(causal: PreTrainedModel) -> FastPaths:
    """On the model's own weights, which cannot have a small window: a model with one is not packed."""
    if causal.device.type == "meta":  # a plan; the start of the run tries
        return FastPaths(packing=False, lens=True)
    limit = 10 * _LIMIT if causal.dtype == torch.float32 else _LIMIT_COARSE  # roundings grow over all its blocks
    training = causal.training
    causal.eval()
    try:
        wanted = _alone(causal)
        with _attending_by(causal, PACKING_SDPA):
            packing = not attends_in_part(causal.config) and _agree(_packed(causal), wanted, limit)
    except Exception:  # a model that takes no such arguments
        packing = False
    try:
        with _attending_by(causal, "eager"):
            lens = _lens_agrees(causal, limit)
    except Exception:  # it has no eager attention
        lens = False
    causal.train(training)
    return FastPaths(packing, lens)


@contextmanager
def _attending_by(causal: PreTrainedModel, name: str) -> Iterator[None]:
    before = causal.config._attn_implementation
    causal.set_attn_implementation(name)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


def _alone(causal: PreTrainedModel) -> list[Tensor]:
    """The last hidden states [T, d] of each sequence, read by itself."""
    decoder = find_decoder(causal)
    rows = [torch.tensor([ids], device=causal.device) for ids in _SEQUENCES]
    return [decoder(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in rows]


def _packed(causal: PreTrainedModel) -> list[Tensor]:
    """The same from one packed row."""
    row = pack(_SEQUENCES, causal.device)
    states = find_decoder(causal)(**row_arguments(row, CausalSequences(row))).last_hidden_state[0]
    return [row.gather(states, sequence) for sequence in range(len(_SEQUENCES))]


@torch.no_grad()
def _cached(causal: PreTrainedModel) -> list[Tensor]:
    """The states of each sequence's last tokens, from a prompt on that is read first, as rollouts read them."""
    decoder, prompts = find_decoder(causal), [ids[:-_AFTER_PROMPT] for ids in _SEQUENCES]
    cache, row = KeyValueCache(len(prompts), len(_LONG)), pack(prompts, causal.device)
    attend = ReadPrompts(cache, row, [[number] for number in range(len(prompts))])
    states = [decoder(**row_arguments(row, attend)).last_hidden_state[0, row.ends()]]
    for step in range(_AFTER_PROMPT):
        new = next_tokens(cache, [len(ids) + step for ids in prompts], causal.device)
        ids = torch.tensor([ids[step - _AFTER_PROMPT] for ids in _SEQUENCES], device=causal.device)
        states.append(decoder(**packed_arguments(ids, new.columns, new)).last_hidden_state[0])
    return list(torch.stack(states, dim=1))


@torch.no_grad()
def _lens_agrees(causal: PreTrainedModel, limit: float) -> bool:
    """Whether captured queries and keys give the attention that the model's own code computes."""
    ids = torch.tensor([_LONG], device=causal.device)
    decoder, blocks = find_decoder(causal), find_blocks(causal)[1]
    modules: list[Any] = [getattr(block, "self_attn", None) for block in blocks]
    try:
        with capture_attention(causal.config, modules) as kept:
            wanted = decoder(input_ids=ids, use_cache=False, output_attentions=True).attentions
        got = [_probabilities(kept[module]) for module in modules]
    except Exception:  # a model without attention, or whose code keeps none
        return False
    return _agree(got, list(wanted), limit)


def _probabilities(layer: Attention) -> Tensor:
    """Of every query over the keys up to its own, [1, H, T, T]."""
    at = torch.arange(layer.keys.shape[2], device=layer.keys.device)
    logits = attention_logits(layer, at[None], at.expand(1, len(at), -1)).transpose(1, 2)
    return logits.masked_fill(~in_window(at, at, None), -torch.inf).softmax(-1)


def _gradient(causal: PreTrainedModel, states: Sequence[Tensor]) -> Tensor:
    """Of a sum over the states of all sequences, for all parameters, as one vector."""
    parameters = list(find_decoder(causal).parameters())
    loss = torch.stack([state.sin().sum() for state in states]).sum()
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _agree(got: Sequence[Tensor], wanted: Sequence[Tensor], limit: float) -> bool:
    pairs = zip(got, wanted, strict=True)
    return all(bool((one - other).float().norm() <= limit * other.float().norm()) for one, other in pairs)
