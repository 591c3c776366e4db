"""Reads the rollouts of a collection with the model at hand, for what a saved flow cannot say."""

import torch

from phfcli.core.analysis.collect_flow import Collection
from phfcli.core.analysis.readings.attention_maps import AttentionSums
from phfcli.core.analysis.readings.lens import LensSums, predicting_pass
from phfcli.core.analysis.readings.model_readings import AttentionReadings, ModelReadings
from phfcli.core.analysis.readings.outputs import OutputSums
from phfcli.core.errors import UserError
from phfcli.core.models.logit_lens import check_logit_lens, lens_layer


@torch.no_grad()
def read_model(collection: Collection) -> ModelReadings:
    """Passes over the rollouts, a micro-batch at a time: the student's twice, the teacher's once.

    Raises:
        UserError: where oisd.layer names a block that the model does not have.
    """
    model, temperature = collection.model, collection.config.rollout.temperature
    model.network.eval()
    shadow = lens_layer(collection.config.oisd.layer or 0, len(model.blocks))
    if shadow > len(model.blocks):
        raise UserError(f"oisd.layer: the model has {len(model.blocks)} decoder blocks, got {shadow}")
    outputs, lens = OutputSums(temperature), LensSums(model, shadow, temperature)
    attention, why_not = read_attention(collection, shadow)
    for batch in collection.batches():
        student = predicting_pass(model, batch)
        outputs.add(student, collection.teacher.run_pass(model, batch, ()), batch)
        lens.add(student, batch)
    return ModelReadings(temperature, outputs.result(), lens.result(), attention, why_not)


def read_attention(collection: Collection, shadow: int) -> tuple[AttentionReadings | None, str | None]:
    """What is read of the attention; or None, and why it cannot be captured."""
    model, settings = collection.model, collection.config.oisd
    try:
        check_logit_lens(model.causal, shadow)
    except UserError as error:
        return None, str(error)
    sums = AttentionSums(model, shadow, settings)
    for batch in collection.batches(settings.queries):
        sums.add(batch)
    return sums.result(), None
