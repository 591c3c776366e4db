"""The order of training problems, and those that do not fit."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_tokenizer
from phfcli.core.models.prompts import Prompts
from phfcli.core.runs.problems import Curriculum, SequenceLengths, build_curriculum, check_rewards
from phfcli.core.types import Problem

PROBLEMS = [Problem(str(i), f"problem {i}", "s") for i in range(10)]


@given(batch=st.integers(1, 25), seed=st.integers(0, 5))
def test_each_epoch_visits_every_problem_once(batch: int, seed: int) -> None:
    curriculum = Curriculum(PROBLEMS, batch, seed)
    visited = [p for step in range(1, 31) for p in curriculum.batch(step)]
    for epoch in range(len(visited) // 10):
        assert set(visited[10 * epoch : 10 * epoch + 10]) == set(PROBLEMS)


def test_epochs_and_seeds_differ_and_repeat_themselves() -> None:
    orders = [tuple(Curriculum(PROBLEMS, 10, seed).batch(step)) for seed in (0, 1) for step in (1, 2)]
    assert len(set(orders)) == 4
    assert orders == [tuple(Curriculum(PROBLEMS, 10, seed).batch(step)) for seed in (0, 1) for step in (1, 2)]


@pytest.fixture
def prompts() -> Prompts:
    return Prompts(load_tokenizer("embedded"))


def write(path: Path, solutions: list[str]) -> str:
    path.write_text("".join(json.dumps({"problem": "P", "solution": s}) + "\n" for s in solutions))
    return str(path)


def test_overlong_problems_are_an_error_or_a_counted_skip(tmp_path: Path, prompts: Prompts) -> None:
    data = write(tmp_path / "rows.jsonl", ["1" * 300, "1", "2" * 300, "2"])
    settings = {"data": data, "rollout": {"max_new_tokens": 100}, "steps": 1, "batch_size": 4}
    with pytest.raises(UserError, match="with a rollout of 100, more than the 256 that fit"):
        build_curriculum(TrainConfig.model_validate(settings), SequenceLengths(prompts, rollout=100), limit=256)
    kept, skipped = build_curriculum(
        TrainConfig.model_validate({**settings, "overlong": "skip"}), SequenceLengths(prompts, rollout=100), limit=256
    )
    assert ([p.solution for p in kept.problems], skipped) == (["1", "2"], 2)
    with pytest.raises(UserError, match="no problem fits"):
        build_curriculum(
            TrainConfig.model_validate({**settings, "overlong": "skip"}),
            SequenceLengths(prompts, rollout=100),
            limit=110,
        )


def test_only_problems_that_the_run_visits_are_measured(tmp_path: Path, prompts: Prompts) -> None:
    data = write(tmp_path / "rows.jsonl", ["1"] * 40 + ["1" * 300])
    settings = {"data": data, "rollout": {"max_new_tokens": 100}, "steps": 1, "batch_size": 2}
    curriculum, skipped = build_curriculum(
        TrainConfig.model_validate(settings), SequenceLengths(prompts, rollout=100), limit=256
    )
    assert (len(curriculum.problems), skipped) == (41, 0)


def test_offline_the_prompt_and_the_reference_must_fit(tmp_path: Path, prompts: Prompts) -> None:
    data = write(tmp_path / "rows.jsonl", ["1", "2" * 90])
    config = TrainConfig.model_validate({"data": data, "steps": 1, "batch_size": 2})
    sequence_lengths = SequenceLengths(prompts, privileged=False)
    long = Problem("1", "P", "2" * 90)
    length = len(prompts.student("P")) + len(prompts.target("P", "2" * 90))
    assert sequence_lengths.length(long) == length
    assert build_curriculum(config, sequence_lengths, limit=length)[1] == 0
    with pytest.raises(
        UserError, match=f"problem 1 takes {length} tokens with its reference.*set overlong to skip to leave"
    ):
        build_curriculum(config, sequence_lengths, limit=length - 1)
    kept, skipped = build_curriculum(config.model_copy(update={"overlong": "skip"}), sequence_lengths, limit=length - 1)
    assert ([p.solution for p in kept.problems], skipped) == (["1"], 1)


def test_problems_without_any_gold_are_warned_of_or_refused_where_there_is_a_reward() -> None:
    good = [Problem(str(i), "P", "so \\boxed{1}") for i in range(3)]
    assert check_rewards(good, "data") == []
    [note] = check_rewards([*good, Problem("9", "P", "no box")], "data")
    assert "1 of 4 problems, such as 9, have neither an answer nor a \\boxed in their solution" in note
    with pytest.raises(UserError, match=r"set columns\.answer to"):
        check_rewards([Problem("9", "P", "no box")], "data")
