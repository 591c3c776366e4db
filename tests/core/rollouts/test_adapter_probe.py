"""The probe finds an engine that does not follow training, also one that only loses its way when it wakes up."""

from collections.abc import Callable

import pytest
from sleeping_engine import SleepingEngine

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.errors import FaultError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.rollouts.build import probe_adapter

PROMPT = (5, 9, 12, 40, 41)


@pytest.fixture
def adapted() -> LanguageModel:
    return add_lora(load_model(ModelSettings(device="cpu")), LoraSettings(r=4), seed=0)


def test_an_engine_that_follows_is_let_through(adapted: LanguageModel) -> None:
    before = {name: weights.detach().clone() for name, weights in adapted.trainable().items()}
    probe_adapter(SleepingEngine(adapted, lambda _: True), adapted, PROMPT)
    assert all(bool((weights == before[name]).all()) for name, weights in adapted.trainable().items())


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (lambda naps: naps == 0, "it does not follow training"),  # deaf since it first slept
        (lambda naps: naps < 2, "keeps changed weights after they are changed back"),  # deaf since it slept twice
        (lambda _: False, "it does not follow training"),
    ],
)
def test_an_engine_that_is_deaf_after_a_sleep_is_found(
    adapted: LanguageModel, takes: Callable[[int], bool], words: str
) -> None:
    with pytest.raises(FaultError, match=words):
        probe_adapter(SleepingEngine(adapted, takes), adapted, PROMPT)
