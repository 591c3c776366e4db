"""What a run would do and take, without loading a weight: the rendered prompts and an estimate of its memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from phfcli.core.cards import load_config, load_tokenizer, pick_device, pick_dtype, skeleton
from phfcli.core.config import TrainConfig
from phfcli.core.data import Reading, load_problems
from phfcli.core.errors import UserError
from phfcli.core.layers import pick_layers
from phfcli.core.losses.sweep import CHUNK_BYTES
from phfcli.core.objectives import Needs, build_objective
from phfcli.core.prompts import Prompts, build_prompts
from phfcli.core.records import Problem
from phfcli.core.retelling import same_tokens

T = TypeVar("T")

_PROMPT_TOKENS = 512  # assumed where no tokenizer is at hand to measure one


@dataclass
class Plan:
    """Prompts by reader (and a target, if there is one), memory in bytes by part, and what could not be found out."""

    prompts: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"prompts": self.prompts, "memory_bytes": self.memory, "gaps": self.gaps}


def plan_run(config: TrainConfig) -> Plan:
    """The plan of a run. What cannot be loaded, and so is not shown, is named in `gaps`."""
    plan = Plan()
    needs = build_objective(config).needs
    tokenizer = _try(plan, lambda: load_tokenizer(config.model))
    problem = _try(plan, lambda: load_problems(config.data, config.columns)[0])
    prompt_tokens = _PROMPT_TOKENS
    if tokenizer is not None and problem is not None:
        prompts = build_prompts(tokenizer, config.prompt)
        plan.prompts = _render(prompts, needs, problem)
        prompt_tokens = Reading(prompts, needs.privileged, rollout=0).length(problem)
    model = _try(plan, lambda: skeleton(load_config(config.model)))
    if model is not None:
        plan.memory = estimate_memory(config, needs, model, prompt_tokens)
    if needs.teacher and config.teacher.kind == "external":
        _add_external(plan, config, problem, tokenizer)
    return plan


def estimate_memory(config: TrainConfig, needs: Needs, model: PreTrainedModel, prompt_tokens: int) -> dict[str, int]:
    """Bytes by part at the peak of a step on one device; a plain count of tensors, not a measurement.

    Activations are those that the backward pass of a block needs with its weights frozen: about 10 times the width
    and 6 times the MLP's width for each token; with gradient checkpointing one block's, and the others' inputs.
    Offline every reference is taken to be as long as is allowed.
    """
    arch = model.config
    size = pick_dtype(config.dtype, pick_device(config.device)).itemsize
    width, depth, inner = arch.hidden_size, arch.num_hidden_layers, arch.intermediate_size
    adapter = sum(
        config.lora.r * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in config.lora.target_modules
    )
    length = prompt_tokens + config.rollout.max_new_tokens
    if needs.offline:
        length = min(needs.max_tokens or arch.max_position_embeddings, arch.max_position_embeddings)
    tokens = config.micro_batch_size * length
    readers = 2 if needs.teacher else 1
    layers = len(pick_layers(needs.layers, depth))
    positions = min(needs.positions, length)
    block = tokens * (10 * width + 6 * inner) * size
    inputs = tokens * width * size * depth
    parts = {
        "weights": model.num_parameters() * size,
        "adapter": adapter * 4,
        "teacher": adapter * 4 if needs.teacher and needs.privileged else 0,
        "gradient": adapter * 4,
        "AdamW": adapter * 8,
        "activations": inputs + block if config.gradient_checkpointing else depth * block,
        "captured states": readers * layers * config.micro_batch_size * positions * width * 4,
        "logits chunk": 2 * CHUNK_BYTES,
    }
    return {name: part for name, part in parts.items() if part} | {"total": sum(parts.values())}


def _add_external(
    plan: Plan, config: TrainConfig, problem: Problem | None, student: PreTrainedTokenizerBase | None
) -> None:
    """What a teacher that is another model reads, in the student's format if it has its tokens, and its weights."""
    name = str(config.teacher.model)
    own = _try(plan, lambda: load_tokenizer(name))
    if own is not None and student is not None and problem is not None:
        tokenizer = student if same_tokens(student, own) else own
        plan.prompts["teacher"] = build_prompts(tokenizer, config.prompt).student_text(problem.problem)
    model = _try(plan, lambda: skeleton(load_config(name)))
    if model is not None and plan.memory:
        size = model.num_parameters() * pick_dtype(config.dtype, pick_device(config.device)).itemsize
        plan.memory = {"teacher": size, **plan.memory, "total": plan.memory["total"] + size}


def _render(prompts: Prompts, needs: Needs, problem: Problem) -> dict[str, str]:
    """What each reader of the first problem sees, and the target of an offline objective."""
    assert problem.solution is not None
    texts = {"student": prompts.student_text(problem.problem)}
    if needs.teacher and needs.privileged:
        texts["teacher"] = prompts.teacher_text(problem.problem, problem.solution)
    if needs.offline:
        texts["target"] = prompts.target_text(problem.problem, problem.solution)
    return texts


def _try(plan: Plan, get: Callable[[], T]) -> T | None:
    try:
        return get()
    except UserError as error:
        plan.gaps.append(str(error))
        return None
