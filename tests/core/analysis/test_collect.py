"""The logit lens: against plain loops over the model's own logits in float64, and by hand."""

import math

import pytest
import torch
from rollout_samples import CPU, SAMPLES
from torch import Tensor

from phfcli.core.analysis.collect import lens_entropy
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import collate, run_pass

TEMPERATURE = 1.1


def entropy(logits: Tensor) -> float:
    scaled = [value / TEMPERATURE for value in logits.tolist()]
    weights = [math.exp(value - max(scaled)) for value in scaled]
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)


@torch.no_grad()
def test_every_block_is_read_by_norm_and_head(student: LanguageModel) -> None:
    batch = collate(SAMPLES, 64, student.description.pad_id, CPU)
    states = run_pass(student, batch.student, batch, range(1, 4)).states[:, batch.valid]
    found = lens_entropy(student, states, TEMPERATURE).tolist()
    for layer in range(3):
        values = []
        for sample in SAMPLES:
            ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
            blocks = student.causal(input_ids=ids, output_hidden_states=True).hidden_states
            # transformers' last entry is behind the final norm already
            state = blocks[3][0] if layer == 2 else student.causal.model.norm(blocks[layer + 1][0])
            values += map(entropy, student.causal.lm_head(state)[len(sample.student_prompt) :])
        assert found[layer] == pytest.approx(sum(values) / len(values), rel=1e-9)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


def test_chunks_of_positions_change_nothing(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.randn(2, 5, student.head.shape[1], generator=torch.Generator().manual_seed(0)).to(student.head.dtype)
    whole = lens_entropy(student, states, 1.0)
    monkeypatch.setattr("phfcli.core.analysis.collect.chunk_rows", lambda *_: 2)
    torch.testing.assert_close(lens_entropy(student, states, 1.0), whole)
