"""A teacher of one's own: the model without its adapter, which reads the reference and costs no memory."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import phfcli as phf
from phfcli.core.config import TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, run_pass
from phfcli.core.types import Problem


class BaseTeacher:
    def __init__(self, _config: TrainConfig, _model: LanguageModel) -> None: ...

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return sample  # it reads the student's tokens

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        assert batch.teacher is not None  # the prompt with the reference, and the rollout
        with student.network.disable_adapter():
            return run_pass(student, batch.teacher, batch, layers)

    def update(self) -> None: ...  # it never moves

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}  # a checkpoint needs nothing of it

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


if __name__ == "__main__":
    phf.register_teacher("base", BaseTeacher)
    print(phf.train(config={"teacher.kind": "base", "batch_size": 4, "rollout.max_new_tokens": 48}, steps=2))
