"""Plans a run without loading weights: makes the checks of its start, renders its prompts and predicts its memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from phfcli.core.config import TrainConfig
from phfcli.core.errors import reached
from phfcli.core.grading import Grader
from phfcli.core.models.description import (
    UNBOUNDED,
    context_of,
    load_config,
    load_description,
    load_tokenizer,
    rotation_switch,
    skeleton,
    text_config,
    wants_gpu,
)
from phfcli.core.models.device import accelerator, is_accelerator, pick_device, pick_dtype, planned_for_gpu
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.models.token_alignment import same_tokens
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.runs.problems import (
    Curriculum,
    curriculum_warnings,
    fitting_curriculum,
    rotation_warnings,
)
from phfcli.core.training.setup import (
    check_base,
    check_external,
    check_shares,
    check_states,
    prompt_warnings,
    settings_warnings,
)
from phfcli.core.training.step_memory import EFFICIENCY, GPUS, Lengths, Memory, step_memory
from phfcli.core.training.trackers import check_trackers
from phfcli.core.training.validation import build_validation
from phfcli.core.types import Problem

T = TypeVar("T")

_ELSEWHERE = " (of another machine: torch finds none here, and device=cpu plans for the CPU)"
_PROMPT_TOKENS = 512  # assumed where no tokenizer is at hand to measure one


@dataclass
class Plan:
    """The plan of a run.

    Attributes:
        machine: the device that it is made for, and the precision.
        prompts: of the first problem, by reader.
        memory: of one process; None where the model's config is out of reach.
        gpu_hours: by GPU that it fits, of all processes: of updates and of drawing, at the least and at EFFICIENCY.
        steps_per_hour: None without a measured speed.
        notes: the lines that the run prints at its start.
        gaps: what is missing from the plan because the hub does not answer.
    """

    machine: str
    sections: tuple[str, ...] = ()  # of the settings, those that the objective reads
    prompts: dict[str, str] = field(default_factory=dict)
    memory: Memory | None = None
    gpu_hours: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    steps_per_hour: float | None = None
    notes: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        memory = self.memory
        return {
            "machine": self.machine,
            "prompts": self.prompts,
            "memory_bytes": {} if memory is None else memory.at_peak(),
            "peak_phase": None if memory is None else memory.peak_phase,
            "phases": {} if memory is None else {name: dict(parts) for name, parts in memory.phases.items()},
            "gpu_hours": self.gpu_hours,
            "steps_per_hour": self.steps_per_hour,
            "adapter": None if memory is None or memory.adapter is None else memory.adapter.as_json(),
            "notes": self.notes,
            "gaps": self.gaps,
        }

    def find(self, get: Callable[[], T]) -> T | None:
        """The result of `get`; None, and a gap in the plan, where the hub does not answer."""
        return reached(get, self.gaps)


@dataclass(frozen=True)
class _Reader:
    """Config and tokenizer of a model; None where the hub does not answer."""

    arch: PreTrainedConfig | None
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def vocabulary(self) -> int | None:
        return None if self.arch is None else int(text_config(self.arch).vocab_size)

    @property
    def context(self) -> int:
        return UNBOUNDED if self.arch is None else context_of(self.arch)

    def reads_tokens_of(self, other: "_Reader") -> bool:
        """Whether both have the same tokenizer; true where one of them is not known."""
        if self.tokenizer is None or other.tokenizer is None:
            return True
        return same_tokens(self.tokenizer, other.tokenizer)


def plan_run(config: TrainConfig, processes: int = 1, tokens_per_s: float | None = None) -> Plan:
    """The plan of a run in so many processes; of a large model, where no accelerator is, for a GPU of another machine.

    tokens_per_s: the measured speed of sampling, from which the steps an hour follow.

    Raises:
        UserError: for whatever a start refuses before it loads weights.
    """
    arch = reached(lambda: load_config(config.model), [])
    with planned_for_gpu(arch is not None and wants_gpu(arch)):
        device = pick_device(config.device)
        kind = "a GPU" if is_accelerator(device) else "the CPU"
        elsewhere = _ELSEWHERE if is_accelerator(device) and accelerator() is None else ""
        dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
        plan = Plan(machine=f"{kind}, {dtype}{elsewhere}")
        return _filled(plan, config, processes, tokens_per_s)


def _filled(plan: Plan, config: TrainConfig, processes: int, tokens_per_s: float | None) -> Plan:
    needs = build_objective(config).needs
    plan.sections = needs.sections
    check_trackers(config)
    check_shares(config, needs.group_size, processes)
    student = _read(plan, config.model)
    external = needs.teacher and config.teacher.kind == "external"
    teacher = _read(plan, config.teacher.model or "") if external else None
    _check(config, needs, student, teacher)
    lengths = Lengths(_PROMPT_TOKENS, _PROMPT_TOKENS, config.rollout.max_new_tokens)
    warnings = settings_warnings(config)
    if student.tokenizer is not None:
        prompts = build_prompts(student.tokenizer, config.prompt, vocabulary=student.vocabulary)
        contexts = [student.context, *([teacher.context] if teacher and teacher.reads_tokens_of(student) else [])]
        curriculum = plan.find(lambda: fitting_curriculum(config, needs, prompts, contexts)[0])
        plan.find(lambda: _check_validation(config, prompts))
        if curriculum is not None:
            plan.prompts = _render(config, prompts, needs, curriculum, student, teacher)
            lengths = _lengths(config, needs, prompts, curriculum)
            warnings += curriculum_warnings(config, needs, curriculum)
            if student.arch is not None:
                warnings += rotation_warnings(config, curriculum, rotation_switch(student.arch))
        warnings = [*prompts.notes(), *prompt_warnings(config, prompts), *warnings]
    if student.arch is not None and (teacher is None or teacher.arch is not None):
        other = None if teacher is None else teacher.arch
        plan.memory = step_memory(config, needs, student.arch, lengths, processes, other)
        if is_accelerator(pick_device(config.device)):
            plan.gpu_hours = _gpu_hours(plan.memory, config.steps * processes)
    adapter = plan.memory and plan.memory.adapter
    plan.notes = [*(adapter.lines() if adapter else ()), *warnings]
    if tokens_per_s is not None:
        plan.steps_per_hour = 3600 * tokens_per_s / (config.batch_size * needs.group_size * lengths.completion)
    return plan


def _gpu_hours(memory: Memory, steps: int) -> dict[str, dict[str, tuple[float, float]]]:
    """By GPU that the memory fits: hours of so many steps of one process."""
    found = {}
    for gpu in GPUS:
        if memory.at_peak()["total"] <= gpu.size:
            parts = zip(("updates", "drawing"), memory.work.seconds(gpu), strict=True)
            found[gpu.name] = {name: (least := steps * s / 3600, least / EFFICIENCY) for name, s in parts}
    return found


def _read(plan: Plan, model: str) -> _Reader:
    return _Reader(plan.find(lambda: load_config(model)), plan.find(lambda: load_tokenizer(model)))


def _check(config: TrainConfig, needs: Needs, student: _Reader, teacher: _Reader | None) -> None:
    """Raises UserError for models that the start would refuse, judged by their configs."""
    if student.arch is None:
        return
    check_base(config, student.arch)
    check_states(config, needs, skeleton(student.arch))
    if teacher is not None and teacher.arch is not None:
        check_external(config, needs, student.arch, teacher.arch, teacher.reads_tokens_of(student))


def _check_validation(config: TrainConfig, prompts: Prompts) -> None:
    with Grader() as grader:
        build_validation(config, Path(), load_description(config.model), prompts, grader)


def _lengths(config: TrainConfig, needs: Needs, prompts: Prompts, curriculum: Curriculum) -> Lengths:
    """The lengths of the longest problem that the run will visit, with rollouts at the token limit."""
    visited: Sequence[Problem] = curriculum.visited(config.steps)
    student = max(len(prompts.student(p.problem)) for p in visited)
    teacher, completion = student, config.rollout.max_new_tokens
    if needs.privileged:
        teacher = max(curriculum.measured.teacher_prompt(p) for p in visited)
    if needs.offline or config.rollout.references > 0:
        target = max(len(prompts.target(p.problem, p.solution or "")) for p in visited)
        completion = target if needs.offline else max(target, completion)
    return Lengths(student, teacher, completion)


def _render(
    config: TrainConfig,
    prompts: Prompts,
    needs: Needs,
    curriculum: Curriculum,
    student: _Reader,
    teacher: _Reader | None,
) -> dict[str, str]:
    """Each reader's prompt of the first problem, and the target of an offline objective."""
    problem = curriculum.problems[0]
    assert problem.solution is not None
    texts = {"student": prompts.student_text(problem.problem)}
    if needs.teacher and needs.privileged:
        texts["teacher"] = curriculum.context.prompt(prompts, problem)
        texts |= {f"target, {context.name}": context.prompt(prompts, problem) for context in curriculum.further}
    if needs.offline:
        texts["target"] = prompts.target_text(problem.problem, problem.solution)
    if (
        teacher is not None and teacher.tokenizer is not None
    ):  # a teacher with the student's tokenizer reads the student's prompt
        rendered = prompts
        if not teacher.reads_tokens_of(student):
            rendered = build_prompts(teacher.tokenizer, config.prompt, vocabulary=teacher.vocabulary)
        texts["teacher"] = rendered.student_text(problem.problem)
    return texts
