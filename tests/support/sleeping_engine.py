"""An engine with weights of its own, as vLLM's, that can be made to miss what it is handed."""

import copy
from collections.abc import Callable, Iterator, Sequence

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.types import Completion, Request, Sampling


class SleepingEngine:
    """Sleeps after each draw; `takes` says whether it takes over new weights after so many sleeps."""

    name = "sleeping"

    def __init__(self, model: LanguageModel, takes: Callable[[int], bool]) -> None:
        self._own, self._takes, self._naps = copy.deepcopy(model), takes, 0

    def update(self, model: LanguageModel) -> None:
        if self._takes(self._naps):
            for name, weights in self._own.trainable().items():
                weights.data.copy_(model.trainable()[name].data)

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        yield from TransformersEngine(self._own).sample(requests, sampling, logprobs)
        self._naps += 1

    def close(self) -> None: ...
