"""The gradient that each term of the loss has on the trained weights (OISD, figure 9)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from phfcli.core.analysis.collect_flow import Collection
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import LossTerms, Objective, loss_terms
from phfcli.core.objectives.teachers.base import build_base
from phfcli.core.training.refusals import check_states


def read_gradients(collection: Collection) -> dict[str, float]:
    """The norm of each term's gradient over all rollouts, with the term's weight in the loss, before any clipping.

    Raises:
        UserError: where the objective cannot be computed on these rollouts.
    """
    model, objective = collection.model, build_objective(collection.config)
    check_gradients(collection, objective)
    parameters = make_trainable(model)
    model.network.eval()
    base = build_base(model) if objective.needs.base else None
    batches = list(collection.batches(objective.needs.positions, objective.needs.where))
    counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    gradients: dict[str, list[Tensor]] = {}
    for batch in batches:
        terms, _ = loss_terms(objective, model, collection.teacher, base, batch)
        for name, own in term_gradients(terms, counts, parameters).items():
            before = gradients.get(name)
            gradients[name] = own if before is None else [a + b for a, b in zip(before, own, strict=True)]
    return {name: torch.nn.utils.get_total_norm(own).item() for name, own in gradients.items()}


def term_gradients(
    terms: LossTerms, counts: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> dict[str, list[Tensor]]:
    """Of each term the gradient of what it adds to the loss, a tensor for each parameter."""
    found = {}
    for name, term in terms.terms.items():
        own = torch.autograd.grad(term.share(counts), parameters, retain_graph=True, allow_unused=True)
        found[name] = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, own, strict=True)]
    return found


def check_gradients(collection: Collection, objective: Objective) -> None:
    """Raises UserError for an objective that needs more than the rollouts, the model and its own teacher."""
    config, needs = collection.config, objective.needs
    why = None
    if needs.offline:
        why = f"{config.objective} learns from references, not from rollouts"
    elif needs.teacher and config.teacher.kind == "external":
        why = "the teacher is another model, which is not read here"
    elif needs.teacher and config.teacher.states != "same":
        why = "the hidden states have a teacher of their own, which is not read here"
    elif needs.reward and not all(sample.group for sample in collection.samples):
        why = f"{config.objective} needs rewards, which saved rollouts do not have; draw new ones with --data"
    elif config.rollout.ahead and not all(sample.logprobs for sample in collection.samples):
        why = "rollout.ahead weighs tokens by what they were drawn with, which saved rollouts do not have"
    elif config.tuning == "lora" and not adapter_of(collection.model):
        why = "there is no adapter whose gradient it could be; --set tuning=full for that of all weights"
    elif config.tuning == "full" and needs.base:
        why = "base_kl needs the weights before training, which are gone"
    if why:
        raise UserError(f"--gradients: {why}")
    check_states(config, needs, collection.model.causal)


def adapter_of(model: LanguageModel) -> list[nn.Parameter]:
    """The factors of the adapter."""
    return [p for name, p in model.network.named_parameters() if ".lora_" in name]


def make_trainable(model: LanguageModel) -> list[nn.Parameter]:
    """Has the adapter's factors take a gradient, which a loaded one's do not; or all weights where there is none."""
    for p in adapter_of(model):
        p.requires_grad_(True)
    return list(model.trainable().values())
