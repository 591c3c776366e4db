"""The teacher that a vLLM server computes, on this machine or another one (docs/serving.md).

The server gives the last hidden states, after the final norm. The head, which is small beside the blocks, is read here,
so next-token distributions are exact and whole; states of the blocks before the last are what the server does not give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from phfcli.core.config import ModelSettings
from phfcli.core.models.architecture.sizes import depth_of, width_of
from phfcli.core.models.blockless import load_blockless
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.layer_choice import pair_layers
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.models.token_alignment import TokenAlignment
from phfcli.core.objectives.teachers.another_model import AnotherModel, in_its_tokens
from phfcli.core.objectives.teachers.pooled_states import PooledStates


@dataclass(frozen=True)
class ServedTeacher(AnotherModel):
    """Another model: its blocks on a server, its head here."""

    readout: LanguageModel
    server: PooledStates
    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription:
        return self.readout.description

    @property
    def context(self) -> int | None:
        """The shorter one of the model's context and the server's."""
        own = super().context
        return own if own is None or self.server.context is None else min(own, self.server.context)

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """What the head reads, from the server. `layers` may be the last one, of which there is no state before the
        final norm.
        """
        reader, read = in_its_tokens(batch)
        lengths = reader.attention_mask.sum(1).tolist()
        sequences = [ids[:count].tolist() for ids, count in zip(reader.input_ids, lengths, strict=True)]
        out = pad_sequence(self.server.read(sequences), batch_first=True).to(read.lengths.device)  # [B, T, d]
        rows, offsets = read.tokens
        every = torch.arange(len(lengths), device=rows.device)[:, None]
        # an unused slot of an empty completion lies behind its sequence
        selected = (reader.prompt_lengths[:, None] + read.positions).clamp(max=out.shape[1] - 1)
        depth = depth_of(self.description.config)
        return Pass(
            hidden=out[rows, reader.prompt_lengths[rows] + offsets - 1],
            head=self.readout.output_head,
            states=out.new_zeros(0, *read.positions.shape, out.shape[-1]),
            final=out[every, selected] if layers else None,
            layers=pair_layers(layers, len(student.blocks), depth),
            depth=depth,
        )


def load_served(
    settings: ModelSettings, url: str, description: ModelDescription, alignment: TokenAlignment | None
) -> ServedTeacher:
    """The model that settings name, which the server at url computes.

    Raises:
        UserError: where the model's head cannot be read, or no server gives its states.
    """
    readout = load_blockless(settings)
    server = PooledStates(url, settings, width_of(description.config), readout.head.dtype)
    return ServedTeacher(readout, server, alignment)
