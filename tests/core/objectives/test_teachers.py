"""The teachers that are the student itself: averages, and one for the states beside one for the words."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollout_samples import CPU, SAMPLES
from torch import nn

from phfcli.core.config import TeacherSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Sample, collate, run_pass
from phfcli.core.objectives.teachers import AveragedTeacher, Teacher, build_own_teacher, build_teacher, copies_of


def parameter(value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((3,), value, dtype=torch.float64))


@given(decay=st.floats(0, 1), path=st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_it_follows_equation_11(decay: float, path: list[float]) -> None:
    p = parameter(path[0])
    teacher = AveragedTeacher({"p": p}, decay)
    mean = path[0]  # equal to the student at the start
    for value in path[1:]:
        p.data.fill_(value)
        teacher.update()
        mean = decay * mean + (1 - decay) * value
    torch.testing.assert_close(teacher.state_dict()["p"], torch.full((3,), mean, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "expected"), [("fixed", 1.0), ("online", 5.0), ("ema", 0.75 * 1 + 0.25 * 5)])
def test_kinds(kind: str, expected: float) -> None:
    p = parameter(1.0)
    settings = TeacherSettings.model_validate({"kind": kind, "decay": 0.75})
    teacher = build_teacher({"p": p}, settings)
    p.data.fill_(5.0)
    teacher.update()
    with teacher.weights():
        assert p[0].item() == expected
    assert p[0].item() == 5.0
    assert teacher.distance() == pytest.approx(abs(5 - expected) * 3**0.5)


def test_a_synced_teacher_follows_in_jumps_and_goes_on_from_a_checkpoint() -> None:
    p = parameter(0.0)
    settings = TeacherSettings(kind="synced", every=3)
    teacher, seen = build_teacher({"p": p}, settings), []
    for step in range(1, 9):
        p.data.fill_(step)
        if step == 5:
            again = build_teacher({"p": p}, settings)
            again.load_state_dict(teacher.state_dict())
            teacher = again
        teacher.update()
        seen.append(teacher.state_dict()["p"][0].item())
    assert seen == [0, 0, 3, 3, 3, 6, 6, 6]


@pytest.mark.parametrize("settings", [{"kind": "synced"}, {"every": 5}, {"kind": "fixed", "every": 5}])
def test_only_a_synced_teacher_is_synced_every_so_often(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"set both teacher\.kind=synced and teacher\.every"):
        TeacherSettings.model_validate(settings)


def test_the_student_comes_back_after_a_failed_pass() -> None:
    p = parameter(1.0)
    teacher = AveragedTeacher({"p": p}, 1.0)
    p.data.fill_(2.0)
    storage = p.data_ptr()

    def fail() -> None:
        with teacher.weights():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert p.data_ptr() == storage
    assert p[0].item() == 2.0


def test_an_average_that_lacks_a_parameter_is_refused() -> None:
    teacher = AveragedTeacher({"p": parameter(1.0)}, 0.5)
    with pytest.raises(KeyError):
        teacher.load_state_dict({})


def test_a_head_that_trains_is_read_with_its_average(random_model: Callable[..., LanguageModel]) -> None:
    model = random_model()
    model.causal.requires_grad_(True)
    teacher = AveragedTeacher(model.trainable(), decay=1.0)
    initial = model.head.detach().clone()
    with torch.no_grad():
        model.head.add_(1.0)
    batch = collate([Sample([5, 6], [7, 8, 9], [10, 11, 12])], 4, model.description.pad_id, model.device)
    read = teacher.run_pass(model, batch, ())
    torch.testing.assert_close(read.head.weight, initial)
    assert not read.head.requires_grad


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
