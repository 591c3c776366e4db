"""What a run would do and take, without loading a weight: the rendered prompts and an estimate of its memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from phfcli.core.cards import load_config, load_tokenizer, pick_device, pick_dtype, skeleton
from phfcli.core.config import TrainConfig
from phfcli.core.data import load_problems
from phfcli.core.errors import UserError
from phfcli.core.losses.sweep import CHUNK_BYTES
from phfcli.core.prompts import build_prompts
from phfcli.core.records import Problem

T = TypeVar("T")

_PROMPT_TOKENS = 512  # assumed where no tokenizer is at hand to measure one


@dataclass
class Plan:
    """Prompts by reader, memory in bytes by part, and what could not be found out."""

    prompts: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"prompts": self.prompts, "memory_bytes": self.memory, "gaps": self.gaps}


def plan_run(config: TrainConfig) -> Plan:
    """The plan of a run. What cannot be loaded, and so is not shown, is named in `gaps`."""
    plan = Plan()
    tokenizer = _try(plan, lambda: load_tokenizer(config.model))
    problem = _try(plan, lambda: load_problems(config.data, config.columns)[0])
    prompt_tokens = _PROMPT_TOKENS
    if tokenizer is not None and problem is not None:
        prompts = build_prompts(tokenizer, config.prompt)
        plan.prompts = _render(prompts.student_text, prompts.teacher_text, problem)
        prompt_tokens = len(prompts.teacher(problem.problem, problem.solution or ""))
    model = _try(plan, lambda: skeleton(load_config(config.model)))
    if model is not None:
        plan.memory = estimate_memory(config, model, prompt_tokens)
    return plan


def estimate_memory(config: TrainConfig, model: PreTrainedModel, prompt_tokens: int) -> dict[str, int]:
    """Bytes by part at the peak of a step on one device; a plain count of tensors, not a measurement.

    Activations are those that the backward pass of a block needs with its weights frozen: about 10 times the width
    and 6 times the MLP's width for each token; with gradient checkpointing one block's, and the others' inputs.
    """
    arch = model.config
    size = pick_dtype(config.dtype, pick_device(config.device)).itemsize
    width, depth, inner = arch.hidden_size, arch.num_hidden_layers, arch.intermediate_size
    adapter = sum(
        config.lora.r * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in config.lora.target_modules
    )
    tokens = config.micro_batch_size * (prompt_tokens + config.rollout.max_new_tokens)
    block = tokens * (10 * width + 6 * inner) * size
    inputs = tokens * width * size * depth
    parts = {
        "weights": model.num_parameters() * size,
        "adapter": adapter * 4,
        "teacher": adapter * 4,
        "gradient": adapter * 4,
        "AdamW": adapter * 8,
        "activations": inputs + block if config.gradient_checkpointing else depth * block,
        "captured states": 2 * depth * config.micro_batch_size * config.flow.positions * width * 4,
        "divergence chunk": 2 * CHUNK_BYTES,
    }
    return {**parts, "total": sum(parts.values())}


def _render(student: Callable[[str], str], teacher: Callable[[str, str], str], problem: Problem) -> dict[str, str]:
    assert problem.solution is not None
    return {"student": student(problem.problem), "teacher": teacher(problem.problem, problem.solution)}


def _try(plan: Plan, get: Callable[[], T]) -> T | None:
    try:
        return get()
    except UserError as error:
        plan.gaps.append(str(error))
        return None
