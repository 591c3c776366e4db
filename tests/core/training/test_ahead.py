"""Rollouts drawn a step ahead: by weights one update old, beside the update, and the same ones after a stop."""

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest

from phfcli.core.errors import UserError
from phfcli.core.objectives.build import build_objective
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.ranks import ALONE
from phfcli.core.training.rollouts import Ahead
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer
from phfcli.core.types import Completion, Request

REQUESTS = [Request((1, 2), seed=7), Request((1, 2), seed=2**62 + 1)]
DRAWN = [Completion((5, 6), (-0.1, -1 / 3), "stop"), Completion((8,), (-2.0,), "length")]


def trainer(folder: Path, ahead: int) -> Trainer:
    """One whose weights move far enough that another step's draw other tokens."""
    pairs = ["objective=opsd", "batch_size=4", "rollout.max_new_tokens=40", "optim.lr=0.05", "optim.max_grad_norm=1"]
    return build_trainer(resolve_train(set_sources([*pairs, f"rollout.ahead={ahead}"])), folder, fresh=True)


@pytest.mark.slow
def test_a_steps_rollouts_are_those_of_the_weights_before_the_last_update(tmp_path: Path) -> None:
    ahead, fresh = trainer(tmp_path / "ahead", 1), trainer(tmp_path / "fresh", 0)
    with ahead.rollouts.grader, fresh.rollouts.grader:
        initial = [fresh.rollouts.samples(step).completions for step in (1, 2)]
        told, first = ahead.train_step(1)
        assert told["staleness"] == 0
        assert [tuple(sample.completion) for sample in first] == [one.ids for one in initial[0]]
        assert fresh.train_step(1)[1] == first  # so the weights after step 1 are the same
        told, second = ahead.train_step(2)
        assert told["staleness"] == 1
        assert [tuple(sample.completion) for sample in second] == [one.ids for one in initial[1]]
        assert fresh.train_step(2)[1] != second


def test_who_draws_beside_does_not_hold_up_the_step() -> None:
    go_on = Event()

    def slow(_: Sequence[Request]) -> list[Completion]:
        assert go_on.wait(60)
        return DRAWN

    ahead = Ahead()
    ahead.start(REQUESTS, slow, beside=True)  # returns while nothing is drawn yet
    go_on.set()
    assert ahead.take(REQUESTS) == DRAWN
    assert ahead.staleness == 1
    assert ahead.take(REQUESTS) is None  # each is trained on once
    assert ahead.staleness == 0


def test_a_fault_of_the_engine_is_told_by_whoever_waits_for_it() -> None:
    def broken(_: Sequence[Request]) -> list[Completion]:
        raise UserError("the server is gone")

    ahead = Ahead()
    ahead.start(REQUESTS, broken, beside=True)
    with pytest.raises(UserError, match="the server is gone"):
        ahead.take(REQUESTS)


def test_what_is_kept_comes_back_bit_by_bit_and_only_for_the_same_requests() -> None:
    ahead, other = Ahead(), Ahead()
    ahead.start(REQUESTS, lambda _: DRAWN, beside=False)
    state = ahead.state(ALONE)
    for wanted in ([REQUESTS[1]], REQUESTS[::-1]):  # another number of ranks has other shares
        other.restore(state)
        assert other.take(wanted) == [DRAWN[REQUESTS.index(request)] for request in wanted]
    other.restore(state)
    assert other.take([*REQUESTS, Request((1, 2), seed=8)]) is None
    assert Ahead().state(ALONE) == {}


def test_what_draws_nothing_cannot_draw_it_ahead() -> None:
    with pytest.raises(UserError, match=r"rollout\.ahead: sft reads the references"):
        build_objective(resolve_train(set_sources(["objective=sft", "rollout.ahead=1"])))
