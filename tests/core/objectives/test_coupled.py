"""The coupling ablation: outputs of one teacher, hidden states of another source."""

from dataclasses import replace

import pytest
import torch
from rollout_samples import CPU, SAMPLES

from phfcli.core.config import TeacherSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, collate, run_pass
from phfcli.core.objectives.teachers import Teacher, build_own_teacher, build_teacher, copies_of

LAYERS = (1, 3)
SOURCES = ("unprivileged", "ema", "fixed", "online")


@pytest.fixture
def batch(student: LanguageModel) -> Batch:
    return collate(SAMPLES[:4], 128, student.description.pad_id, CPU)


def teacher_of(student: LanguageModel, source: str) -> Teacher:
    """After three steps of a student that moves."""
    teacher = build_own_teacher(student.trainable(), TeacherSettings.model_validate({"decay": 0.5, "states": source}))
    torch.manual_seed(1)
    for _ in range(3):
        for p in student.trainable().values():
            p.data += 0.05 * torch.randn_like(p)
        teacher.update()
    return teacher


@pytest.mark.parametrize("source", SOURCES)
def test_the_outputs_stay_those_of_the_teacher(student: LanguageModel, batch: Batch, source: str) -> None:
    start = {name: p.detach().clone() for name, p in student.trainable().items()}
    mixed = teacher_of(student, source).run_pass(student, batch, LAYERS)
    for name, p in student.trainable().items():
        p.data.copy_(start[name])
    alone = teacher_of(student, "same").run_pass(student, batch, LAYERS)
    torch.testing.assert_close(mixed.hidden, alone.hidden)
    assert mixed.layers == LAYERS
    assert torch.equal(mixed.states, alone.states) is (source == "ema")


def test_the_states_are_those_of_the_source(student: LanguageModel, batch: Batch) -> None:
    assert batch.teacher is not None
    first = run_pass(student, batch.teacher, batch, LAYERS).states.detach()
    fixed = teacher_of(student, "fixed").run_pass(student, batch, LAYERS)
    torch.testing.assert_close(fixed.states, first)
    online = teacher_of(student, "online").run_pass(student, batch, LAYERS)
    torch.testing.assert_close(online.states, run_pass(student, batch.teacher, batch, LAYERS).states.detach())
    plain = teacher_of(student, "unprivileged")
    own = build_teacher(student.trainable(), TeacherSettings(decay=0.5))
    own.load_state_dict(plain.state_dict())
    want = own.run_pass(student, replace(batch, teacher=batch.student), LAYERS)
    torch.testing.assert_close(plain.run_pass(student, batch, LAYERS).states, want.states)


@pytest.mark.parametrize("source", SOURCES)
def test_a_checkpoint_brings_both_back(student: LanguageModel, batch: Batch, source: str) -> None:
    teacher = teacher_of(student, source)
    again = build_own_teacher(student.trainable(), TeacherSettings.model_validate({"decay": 0.5, "states": source}))
    again.load_state_dict({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    one, other = (x.run_pass(student, batch, LAYERS) for x in (teacher, again))
    assert torch.equal(one.hidden, other.hidden)
    assert torch.equal(one.states, other.states)
    assert len(teacher.state_dict()) == len(student.trainable()) * copies_of(TeacherSettings(states=source))  # type: ignore[arg-type]
    assert {"teacher_distance"} <= teacher.metrics().keys()


def test_an_external_teacher_is_of_one_piece() -> None:
    with pytest.raises(ValueError, match="not for an external one"):
        TeacherSettings(kind="external", model="x", states="fixed")
