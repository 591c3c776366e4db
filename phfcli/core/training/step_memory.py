"""Predicts the memory of a training step, phase by phase, before a weight is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from phfcli.core.config import TrainConfig
from phfcli.core.losses.fused_divergence import SLAB_TEMPORARIES, chunk_bytes, slab_bytes
from phfcli.core.models.adapters import AdapterSummary
from phfcli.core.models.architecture import find_blocks, find_decoder
from phfcli.core.models.description import (
    cache_row_bytes,
    caps_attention,
    skeleton,
    text_config,
)
from phfcli.core.models.device import pick_device, pick_dtype
from phfcli.core.models.kernels import checkpoint_gradients
from phfcli.core.models.loading import ONE_THREAD_WIDTH
from phfcli.core.models.lora import lora_network
from phfcli.core.models.weights import bytes_of, weights_memory
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.teachers import copies_of
from phfcli.core.rollouts.transformers import SAMPLER_BYTES, rows_at_once
from phfcli.core.training.metrics import peak_memory
from phfcli.core.training.micro_batches import tokens_at_once
from phfcli.core.training.pass_memory import pass_memory, reader_memory

_WHOLE_BLOCKS = 2  # gathered at once: the block that computes, and the next one, which is fetched ahead


@dataclass(frozen=True)
class Shards:
    """Bytes that sharding saves and gathers in one process; all 0 without sharding.

    Attributes:
        elsewhere: weights that other processes hold.
        blocks: of these, the blocks that a pass gathers at one time.
        outside: of these, embeddings and head, gathered from a pass to the end of its backward pass.
        head: the copy of the head that a pass without gradients leaves.
        gradients: by how much the gradients of a backward pass are smaller.
        share: the part of each trained weight that this process holds.
    """

    elsewhere: int = 0
    blocks: int = 0
    outside: int = 0
    head: int = 0
    gradients: int = 0
    share: float = 1.0


def shard_memory(causal: PreTrainedModel, processes: int, full: bool) -> Shards:
    """For a model whose blocks are sharded, or, where all weights train (`full`), the whole model."""
    blocks = [bytes_of(block) for block in find_blocks(causal)[1]]
    others = (processes - 1) / processes
    whole_blocks = _WHOLE_BLOCKS * max(blocks)
    if not full:
        return Shards(elsewhere=int(others * sum(blocks)), blocks=int(others * whole_blocks))
    every, outside = bytes_of(causal), bytes_of(causal) - sum(blocks)
    head = bytes_of(causal.get_output_embeddings())
    left = every / processes + outside + whole_blocks  # a block's gradient is sharded as soon as it is complete
    return Shards(
        elsewhere=int(others * every),
        blocks=int(others * whole_blocks),
        outside=int(others * outside),
        head=head,
        gradients=max(0, int(bytes_of(find_decoder(causal)) - left)),
        share=1 / processes,
    )


_STATE_COPIES = 8  # float32 tensors of the size of the captured states that a loss on them keeps
_HIDDEN_COPIES = 6  # tensors of the size of all tokens' hidden states in the fused losses
# bytes of the heap for each byte of a step's activations: freed blocks of many sizes leave gaps, and more of them where
# dequantised copies of weights come and go; measured (benchmarks/family_memory.py)
_HEAP, _HEAP_OF_COPIES = 1.25, 1.85
_LENS_WIDTHS = 5  # hidden sizes a token: one block's output, the queries and keys of two blocks


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest sequences: both readers' prompts, and a completion."""

    student: int
    teacher: int
    completion: int


@dataclass(frozen=True)
class Gpu:
    """What its maker says of it: dense bfloat16 products a second, bytes a second and bytes of its memory."""

    name: str
    flops: float
    bandwidth: float
    size: int


GPUS = (
    Gpu("H100", 989e12, 3.35e12, 80 * 2**30),
    Gpu("H200", 989e12, 4.8e12, 141 * 10**9),
    Gpu("A100", 312e12, 2.04e12, 80 * 2**30),
    Gpu("4090", 165e12, 1.01e12, 24 * 2**30),
)
EFFICIENCY = 0.3  # of the roofline: what a step or an engine can be expected to reach


@dataclass(frozen=True)
class Work:
    """What one process computes and moves in a step; for drawing that of one token of all its completions."""

    update_flops: int
    new_tokens: int
    weight_bytes: int
    cache_bytes: int
    draw_flops: int

    def seconds(self, gpu: Gpu) -> tuple[float, float]:
        """Of an update and of drawing, if the GPU did nothing but that at full speed: each takes at least so long."""
        token = max((self.weight_bytes + self.cache_bytes) / gpu.bandwidth, self.draw_flops / gpu.flops)
        return self.update_flops / gpu.flops, self.new_tokens * token


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: the parts that exist all the time, and those of each phase; and the adapter's summary."""

    always: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]
    work: "Work"
    adapter: AdapterSummary | None = None

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    def at_peak(self) -> dict[str, int]:
        """The parts in the phase of the peak, and their total."""
        parts = {name: size for name, size in {**self.always, **self.phases[self.peak_phase]}.items() if size}
        return parts | {"total": sum(parts.values())}


def step_memory(
    config: TrainConfig,
    needs: Needs,
    arch: PreTrainedConfig,
    lengths: Lengths,
    processes: int = 1,
    external: PreTrainedConfig | None = None,
) -> Memory:
    """The memory of a step with its longest micro-batch, in each of so many processes.

    external: the config of a teacher that is another model.
    """
    device, text = pick_device(config.device), text_config(arch)
    dtype = pick_dtype(config.dtype, device) if config.tuning == "lora" else torch.float32
    causal = skeleton(arch, dtype)
    on_cpu = device.type == "cpu"
    frozen = weights_memory(config.model, causal, dtype, config.quantization, mapped=on_cpu)
    full, sharded = config.tuning == "full", config.sharding == "fsdp"
    shards = shard_memory(causal, processes, full) if sharded else Shards()
    summary = _mark_trained(causal, config)
    trained = sum(p.numel() * p.itemsize for p in causal.parameters() if p.requires_grad)
    completions = -(-config.batch_size * needs.group_size // processes)
    rows = min(config.micro_batch_size, completions)
    student, teacher = lengths.student + lengths.completion, lengths.teacher + lengths.completion
    at_once = tokens_at_once(arch, dtype.itemsize, device, sharded)
    rows = rows if at_once is None else max(1, min(rows, at_once // student))
    own_teacher = needs.teacher and external is None
    gaps = _HEAP if config.quantization == "none" else _HEAP_OF_COPIES
    heap = gaps if on_cpu and text.hidden_size > ONE_THREAD_WIDTH else 1
    read = teacher if own_teacher else 0
    passes = pass_memory(
        causal, rows, student, read, _attention(config, arch), config.offload.activations and not on_cpu
    )
    kept_for_backward, backward = int(heap * passes.kept), int(heap * (passes.backward - shards.gradients))
    reading, weights = passes.teacher, 0
    if external is not None:
        assert config.teacher.model is not None
        precision = pick_dtype(config.dtype, device)
        other = skeleton(external, precision)
        reading = reader_memory(other, rows, student, _attention(config, external))
        weights = weights_memory(config.teacher.model, other, precision, "none", mapped=on_cpu)
    copies = copies_of(config.teacher)
    always = {
        "libraries": peak_memory(device) if on_cpu else 0,
        "weights": frozen - shards.elsewhere,
        "adapter": 0 if full else trained,
        "teacher": weights or own_teacher * int(shards.share * trained) * copies,
        "base": int(shards.share * trained) if needs.base and full else 0,
        "AdamW": 2 * int(shards.share * trained),
    }
    tokens = rows * lengths.completion
    layers, positions = needs.blocks(text.num_hidden_layers), min(needs.positions, lengths.completion)
    states = len(layers) * rows * positions * text.hidden_size * 4
    hidden = tokens * text.hidden_size * dtype.itemsize
    lens = 0 if needs.lens is None else rows * student * _LENS_WIDTHS * text.hidden_size * dtype.itemsize
    head = 2 * text.vocab_size * text.hidden_size * 4 if full else 0
    heads = shards.head * (own_teacher + needs.base)
    kept = {"activations": kept_for_backward, "logit lens": lens, "captured states": _STATE_COPIES * states}
    phases = {
        "loss": kept
        | {"hidden states": (_HIDDEN_COPIES + needs.base) * hidden, "head's gradient": head}
        | {"logits chunk": _chunk(tokens, text.vocab_size, dtype, device), "whole weights": shards.outside + heads},
        "backward": kept
        | {"hidden states": hidden, "gradients": backward - kept_for_backward}
        | {"whole weights": shards.outside + shards.blocks + heads},
    }
    gathered = {"whole weights": shards.outside + shards.blocks}
    if needs.teacher:
        phases["teacher"] = {"activations": reading, "captured states": states} | gathered
    if needs.base:
        phases["base"] = {"activations": reader_memory(causal, rows, student, _attention(config, arch))} | gathered
    if not needs.offline and (config.rollout.engine == "transformers" or on_cpu or (full and sharded)):
        phases["rollout"] = _rollout(config, causal, completions, lengths, dtype) | {"whole weights": shards.elsewhere}
    products = (3 if own_teacher or external else 2) * 2 * tokens * text.hidden_size * text.vocab_size  # of the head
    work = Work(
        update_flops=(passes.flops + products) * completions // rows,
        new_tokens=0 if needs.offline else lengths.completion,
        weight_bytes=frozen,
        cache_bytes=completions * cache_row_bytes(arch, dtype.itemsize) * (student - lengths.completion // 2),
        draw_flops=2 * completions * (frozen // dtype.itemsize),
    )
    return Memory(always, phases, work, summary)


def _rollout(
    config: TrainConfig, causal: PreTrainedModel, completions: int, lengths: Lengths, dtype: torch.dtype
) -> dict[str, int]:
    """The parts of sampling in this process."""
    length = lengths.student + lengths.completion
    per_row = cache_row_bytes(causal.config, dtype.itemsize) * length
    rows = rows_at_once(completions, per_row, pick_device(config.device))
    merged = sum(
        module.weight.numel() * dtype.itemsize
        for name, module in causal.named_modules()
        if name.endswith(".base_layer") and isinstance(module.weight, torch.Tensor)
    )
    return {
        "key-value cache": rows * per_row,
        "merged weights": merged if dtype == torch.float32 else 0,
        "sampler": rows * text_config(causal.config).vocab_size * SAMPLER_BYTES,
        "prompts": reader_memory(causal, rows, lengths.student, _attention(config, causal.config)),
    }


def _attention(config: TrainConfig, arch: PreTrainedConfig) -> str:
    """The attention that `load_model` picks."""
    return "eager" if caps_attention(arch) and config.attention == "auto" else config.attention


def _mark_trained(causal: PreTrainedModel, config: TrainConfig) -> AdapterSummary | None:
    """Marks the trainable parameters as the run does; returns the summary of its adapter, if it trains one."""
    if config.tuning != "lora":
        return None
    _, summary = lora_network(causal, config.lora)
    causal.train()
    if config.gradient_checkpointing:
        checkpoint_gradients(causal)
    return summary


def _chunk(tokens: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    logits = min(chunk_bytes(device), 2 * tokens * vocabulary * dtype.itemsize)
    return logits + SLAB_TEMPORARIES * max(slab_bytes(device), vocabulary * 4)
