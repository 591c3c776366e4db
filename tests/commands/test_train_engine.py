"""An engine with weights of its own is probed at every start of a run, so after each restart as well."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sleeping_engine import SleepingEngine

from phfcli.core import extensions
from phfcli.core.config import TrainConfig
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.rollouts.engine import Serving
from phfcli.core.types import Completion, Request, Sampling

PROBE = [8, 8, 8]  # tokens of its three draws


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """The lengths that are asked of an added engine, "counting"."""
    lengths: list[int] = []

    class Counting(SleepingEngine):
        def sample(
            self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
        ) -> Iterator[tuple[int, Completion]]:
            lengths.append(sampling.max_new_tokens)
            yield from super().sample(requests, sampling, logprobs)

    def build(serving: Serving) -> Counting:
        assert isinstance(serving.settings, TrainConfig)
        return Counting(add_lora(load_model(serving.settings), serving.settings.lora, 0), lambda _: True)

    extensions.register("engines", "counting", build)
    yield lengths
    extensions._registered["engines"].clear()


@pytest.mark.slow
def test_a_resumed_run_probes_its_engine_again(phf: Callable[..., Any], asked: list[int]) -> None:
    small = ("--set", "batch_size=2", "--set", "rollout.max_new_tokens=24", "--output-dir", "run", "--quiet")
    assert phf("train", "--steps", 1, "--engine", "counting", *small).code == 0
    assert asked == [*PROBE, 24]
    assert phf("train", "--resume", "--steps", 2, *small).code == 0
    assert asked[4:] == [*PROBE, 24]
