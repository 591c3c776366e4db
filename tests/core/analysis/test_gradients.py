"""The gradient of each loss term: by hand, and against the gradient of the whole loss."""

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES
from torch import nn

from phfcli.core.analysis.collect import term_gradients
from phfcli.core.config import TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import collate, run_pass
from phfcli.core.names import ObjectiveName
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import LossTerms, Term


def test_a_term_counts_with_its_weight_over_the_whole_batch() -> None:
    """2 (3 a + 4 b) / 4 has the gradient (1.5, 2); the other term does not know b."""
    a, b, unused = (nn.Parameter(torch.tensor(1.0, dtype=torch.float64)) for _ in range(3))
    terms = LossTerms({"first": Term(3 * a + 4 * b, "tokens", 2.0), "second": Term(a.square(), "samples")})
    found = term_gradients(terms, {"tokens": 4, "samples": 0}, [a, b, unused])
    assert {name: [g.item() for g in own] for name, own in found.items()} == {
        "first": [1.5, 2, 0],
        "second": [2, 0, 0],
    }


@pytest.mark.parametrize(
    ("objective", "names"), [("phf", {"divergence", "flow"}), ("oisd", {"policy", "think", "attention"})]
)
def test_the_terms_add_up_to_the_gradient_of_the_loss(
    student: LanguageModel, objective: ObjectiveName, names: set[str]
) -> None:
    settings = TrainConfig.model_validate({"objective": objective, **BASE})
    built = build_objective(settings)
    needs, layers = built.needs, built.needs.blocks(3)
    batch = collate(SAMPLES, needs.positions, student.description.pad_id, CPU, needs.where)
    assert batch.teacher is not None
    with torch.no_grad():
        teacher = run_pass(student, batch.teacher, batch, layers)
    terms = built.loss(run_pass(student, batch.student, batch, layers, needs.lens), teacher, batch)
    parameters = list(student.trainable().values())
    found = term_gradients(terms, batch.counts, parameters)
    assert set(found) == names
    assert all(torch.nn.utils.get_total_norm(own) > 0 for own in found.values())
    terms.total(batch.counts).backward()
    for place, p in enumerate(parameters):
        whole = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(sum(own[place] for own in found.values()), whole, rtol=1e-4, atol=1e-8)
