"""Faults that are planted in real runs raise their alarm, once, and it stays in the run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from phfcli.core.rollouts.build import _other_weights
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.alarms import FIRST_STEPS, Alarms, resumed_alarms
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer
from phfcli.core.types import Completion, Request, Sampling

SMALL = ["batch_size=4", "rollout.max_new_tokens=64", "steps=7", "checkpoint_every=2"]


def trainer(folder: Path, *pairs: str, fresh: bool = True) -> Trainer:
    return build_trainer(resolve_train(set_sources([*SMALL, *pairs])), folder, fresh=fresh)


def kept(folder: Path) -> list[str]:
    path = folder / "alarms.jsonl"
    return [json.loads(line)["alarm"] for line in path.read_text().splitlines()] if path.exists() else []


class OtherAdapter(TransformersEngine):
    """Draws under other weights than the trainer's."""

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        with _other_weights(self._model):
            drawn = list(super().sample(requests, sampling, logprobs))
        yield from drawn


@pytest.mark.slow
def test_a_sound_run_raises_none(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "divergence.clip=null")
    steps = list(loop.train())
    assert kept(tmp_path) == []
    assert all(step["engine_gap_largest"] < 1e-4 and abs(step["engine_kl"]) < 1e-6 for step in steps)


@pytest.mark.slow
def test_a_swapped_adapter_in_the_engine(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "divergence.clip=null", "steps=2")
    loop.rollouts.engine = OtherAdapter(loop.model)
    first, second = loop.train()
    assert [alarm["alarm"] for alarm in first["alarms"]] == ["engine"]
    assert "the engine is out of step with the policy" in first["alarms"][0]["sentence"]
    assert "alarms" not in second
    assert kept(tmp_path) == ["engine"]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "raised"), [("opsd", True), ("sft", False)])
def test_a_collapsed_entropy_of_rollouts(tmp_path: Path, objective: str, raised: bool) -> None:
    loop = trainer(tmp_path, f"objective={objective}", "divergence.clip=null")
    steps = loop.train()
    levels = [next(steps) for _ in range(FIRST_STEPS)]
    assert not any("alarms" in step for step in levels)
    with torch.no_grad():
        loop.model.final_norm.weight.mul_(60)
    after = next(steps)
    assert after["entropy"] < 0.05 * sum(step["entropy"] for step in levels) / FIRST_STEPS
    assert ("entropy" in [alarm["alarm"] for alarm in after.get("alarms", [])]) == raised


def test_rollouts_that_end_in_loops() -> None:
    alarms = Alarms()
    steps = [{"step": step, "loops": 0.02} for step in range(1, FIRST_STEPS + 1)]
    assert not any(alarms.look(step) for step in [*steps, {"step": 6, "loops": 0.06}])
    (alarm,) = alarms.look({"step": 7, "loops": 0.25})
    assert alarm["sentence"].startswith("at step 7 25% of the rollouts end in a loop, from 2.0% in the first 5 steps")


@pytest.mark.slow
def test_a_clip_that_takes_all(tmp_path: Path) -> None:
    (metrics,) = trainer(tmp_path, "divergence.clip=1.0e-6", "steps=1").train()
    assert metrics["alarms"][0]["sentence"].startswith("at step 1 the clip takes ")
    assert kept(tmp_path) == ["clip"]


@pytest.mark.slow
def test_references_of_other_problems(tmp_path: Path) -> None:
    rows = [
        {
            "problem": f"Start with {n}, add 8.",
            "solution": f"{n + 1}+8={n + 9}. \\boxed{{{n + 9}}}",
            "answer": str(n + 8),
        }
        for n in (1, 12, 23, 34)
    ]
    data = tmp_path / "shifted.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (metrics,) = trainer(tmp_path / "run", f"data={data}", "divergence.clip=null", "steps=1").train()
    assert metrics["foreign_answers"] == 1
    assert "another answer than the gold of 100%" in metrics["alarms"][0]["sentence"]
    (metrics,) = trainer(
        tmp_path / "control", "teacher.context=other-reference", "divergence.clip=null", "steps=1"
    ).train()
    assert [alarm["alarm"] for alarm in metrics["alarms"]] == ["foreign"]


@pytest.mark.slow
def test_a_resumed_run_raises_none_again(tmp_path: Path) -> None:
    steps = trainer(tmp_path, "divergence.clip=1.0e-6").train()
    for _ in range(3):
        next(steps)
    steps.close()
    again = trainer(tmp_path, "divergence.clip=1.0e-6", fresh=False)
    again.resume(print)
    assert again.step == 2
    assert again.alarms.raised == {"clip"}
    assert len(again.alarms.first) == 2
    assert all("alarms" not in step for step in again.train())
    assert kept(tmp_path) == ["clip"]


STEP = {"step": 1, "entropy": 1.0, "rollout_tokens": 100.0, "truncated": 0.0, "divergence": 0.1, "engine_gap": 0.0}


@pytest.mark.parametrize(
    ("later", "alarm"),
    [
        ({"rollout_tokens": 201.0}, "length"),
        ({"truncated": 0.31}, "length"),
        ({"divergence": 0.0019}, "signal"),
        ({"flat_groups": 0.96}, "signal"),
        ({"entropy": 0.049}, "entropy"),
        ({"entropy": 0.051, "rollout_tokens": 199.0, "truncated": 0.29, "divergence": 0.0021}, None),
    ],
)
def test_levels_are_judged_against_the_first_steps(later: dict[str, float], alarm: str | None) -> None:
    alarms = resumed_alarms([STEP] * FIRST_STEPS, [])
    assert [found["alarm"] for found in alarms.look({**STEP, "step": 6, **later})] == ([alarm] if alarm else [])
    assert Alarms().look({**STEP, **{key: value for key, value in later.items() if key != "flat_groups"}}) == []


@pytest.mark.slow
def test_a_sibling_is_shown_where_one_was_right(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "teacher.context=sibling", "batch_size=8", "steps=1", "data=embedded")
    with loop.rollouts.grader:
        drawn = loop.rollouts.samples(1)
    shown = drawn.contexts
    assert {text is None for text in shown} == {True, False}
    for problem, text, sample in zip(drawn.problems, shown, drawn.samples, strict=True):
        assert text is None or text.endswith(f"\\boxed{{{problem.answer}}}")
        student = loop.rollouts.prompts.student(problem.problem)
        assert (sample.teacher_prompt == student) == (text is None)
    (metrics,) = loop.train()
    assert metrics["siblings"] == sum(text is not None for text in shown) / 8


@pytest.mark.parametrize(
    ("taken", "turned", "warned"), [(0.4, 0.01, False), (0.6, 0.0, True), (0.1, 0.2, True), (0.0, 0.0, False)]
)
def test_a_clip_is_warned_of_where_it_takes_or_turns_much(taken: float, turned: float, warned: bool) -> None:
    alarms = Alarms().look({"step": 3, "clip_share": taken, "turned_tokens": turned})
    assert [alarm["alarm"] for alarm in alarms] == (["clip"] if warned else [])
    assert all(f"takes {taken:.0%} of the divergence" in alarm["sentence"] for alarm in alarms)
    assert all(f"the gradient of {turned:.0%} of the tokens" in alarm["sentence"] for alarm in alarms)
    assert Alarms().look({"step": 3}) == []
