"""Records a hidden flow: the states of student and teacher in every layer along some rollouts."""

from collections.abc import Sequence

import torch

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.runs.flow_files import Flow, Rollout


@torch.no_grad()
def record_flow(model: LanguageModel, teacher: Teacher, samples: Sequence[Sample], positions: int) -> Flow:
    """The flow of samples that have a teacher's prompt, with at most so many positions each."""
    model.network.eval()
    layers = range(1, len(model.blocks) + 1)
    batch = collate(samples, positions, model.description.pad_id, model.device)
    privileged = teacher.run_pass(model, batch, layers).states
    student = run_pass(model, batch.student, batch, layers).states
    rollouts = [Rollout(tuple(s.student_prompt), tuple(s.teacher_prompt or ()), tuple(s.completion)) for s in samples]
    rows = torch.arange(len(samples), device=batch.positions.device)[:, None].expand_as(batch.positions)
    columns = batch.student.prompt_lengths[:, None] + batch.positions
    selected = set(batch.student.input_ids[rows, columns][batch.valid].tolist())
    texts = {token: model.description.text([token]) for token in sorted(selected)}
    return Flow(student, privileged, batch.positions, batch.valid, torch.tensor(layers), rollouts, texts)
