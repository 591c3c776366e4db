"""Plans a run without loading a weight: renders its prompts and predicts its memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.architecture.sizes import context_of
from phfcli.core.models.description import load_config, load_tokenizer
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.models.token_alignment import same_tokens
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.runs.contexts import Context
from phfcli.core.runs.training_data import Curriculum, SequenceLengths, load_problems
from phfcli.core.training.dry_run.step_memory import Lengths, Memory, step_memory
from phfcli.core.types import Problem

T = TypeVar("T")

_PROMPT_TOKENS = 512  # assumed where no tokenizer is at hand to measure one


@dataclass
class Plan:
    """The plan of a run: prompts by reader, the memory of a process, and what could not be found out."""

    prompts: dict[str, str] = field(default_factory=dict)
    memory: Memory | None = None
    steps_per_hour: float | None = None
    notes: list[str] = field(default_factory=list)  # what is also told at start, a line each
    gaps: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        memory = self.memory
        return {
            "prompts": self.prompts,
            "memory_bytes": {} if memory is None else memory.at_peak(),
            "peak_phase": None if memory is None else memory.peak_phase,
            "phases": {} if memory is None else {name: dict(parts) for name, parts in memory.phases.items()},
            "steps_per_hour": self.steps_per_hour,
            "adapter": None if memory is None or memory.adapter is None else memory.adapter.as_json(),
            "notes": self.notes,
            "gaps": self.gaps,
        }


def plan_run(config: TrainConfig, processes: int = 1, tokens_per_s: float | None = None) -> Plan:
    """The plan of a run in so many processes. What cannot be loaded, and so is not shown, is named in `gaps`.

    tokens_per_s: of completions, as some run has measured it; the plan then has its steps an hour.
    """
    plan = Plan()
    needs = build_objective(config).needs
    tokenizer = _try(plan, lambda: load_tokenizer(config.model))
    prompts = None if tokenizer is None else build_prompts(tokenizer, config.prompt)
    problems = _try(plan, lambda: load_problems(config))
    external = config.teacher.model if needs.teacher and config.teacher.kind == "external" else None
    arch = _try(plan, lambda: load_config(config.model))
    lengths = Lengths(_PROMPT_TOKENS, _PROMPT_TOKENS, config.rollout.max_new_tokens)
    if prompts is not None and problems is not None:
        shown = Context(config.teacher.context, problems, config.seed)
        plan.prompts = _render(prompts, needs, problems[0], shown)
        context = None if arch is None else context_of(arch)
        lengths = _lengths(config, needs, prompts, problems, context, shown)
    if external is not None and tokenizer is not None and problems is not None:
        other = _try(plan, lambda: load_tokenizer(external))
        if other is not None:  # which reads the student's own format if it has its tokens
            read = build_prompts(tokenizer if same_tokens(tokenizer, other) else other, config.prompt)
            plan.prompts["teacher"] = read.student_text(problems[0].problem)
    other_arch = None if external is None else _try(plan, lambda: load_config(external))
    if arch is not None and (external is None or other_arch is not None):
        plan.memory = step_memory(config, needs, arch, lengths, processes, other_arch)
    adapter = plan.memory and plan.memory.adapter
    plan.notes = [*(adapter.lines() if adapter else ()), *([*prompts.notes(), *prompts.warnings()] if prompts else ())]
    if tokens_per_s is not None:
        tokens = config.batch_size * needs.group_size * lengths.completion
        plan.steps_per_hour = 3600 * tokens_per_s / tokens
    return plan


def _lengths(
    config: TrainConfig,
    needs: Needs,
    prompts: Prompts,
    problems: Sequence[Problem],
    context: int | None,
    shown: Context,
) -> Lengths:
    """The lengths of the longest problem that the run will visit, with every rollout as long as it may be."""
    new_tokens = None if needs.offline else config.rollout.max_new_tokens
    sequence_lengths = SequenceLengths(prompts, needs.privileged, new_tokens, shown)
    if config.overlong == "skip" and context is not None:
        limit = min(context, needs.max_tokens or context)
        problems = [problem for problem in problems if sequence_lengths.length(problem) <= limit] or problems
    visited = Curriculum(problems, config.batch_size, config.seed).visited(config.steps)
    student = max(len(prompts.student(p.problem)) for p in visited)
    teacher, completion = student, config.rollout.max_new_tokens
    if needs.privileged:
        teacher = max(sequence_lengths.teacher_prompt(p) for p in visited)
    if needs.offline:
        completion = max(len(prompts.target(p.problem, p.solution or "")) for p in visited)
    return Lengths(student, teacher, completion)


def _render(prompts: Prompts, needs: Needs, problem: Problem, shown: Context) -> dict[str, str]:
    """What each reader of the first problem sees, and the target of an offline objective."""
    assert problem.solution is not None
    texts = {"student": prompts.student_text(problem.problem)}
    if needs.teacher and needs.privileged:
        texts["teacher"] = prompts.teacher_text(problem.problem, shown.text(problem))
    if needs.offline:
        texts["target"] = prompts.target_text(problem.problem, problem.solution)
    return texts


def _try(plan: Plan, get: Callable[[], T]) -> T | None:
    try:
        return get()
    except UserError as error:
        plan.gaps.append(str(error))
        return None
