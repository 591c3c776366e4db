"""Pretrains the embedded model, in one stage on one thread, into a base that self-distillation can mend.

Two kinds of examples share every step. Under the student's prompt the worked solution contains slips; under the
teacher's prompt, which holds the reference, it is right. So the model solves the problems with a pupil's carelessness
and trusts a reference once it is shown one: the gap that on-policy self-distillation closes.
"""

import logging
import math
import random
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from arithmetic import PUPIL, Chain, Slips, completion, random_chain, reference_solution, work, work_with_slips
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from phfcli.core.models.prompts import ChatTokenizer, Prompts

IGNORED = -100  # a target that carries no loss
LOG_EVERY = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The settings of the pretraining run."""

    steps: int = 1700
    plain: int = 42  # examples of each kind in a step
    privileged: int = 22
    learning_rate: float = 2.5e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0


class Example(NamedTuple):
    """Token ids of a prompt and of the completion to learn, which ends with the end-of-turn token."""

    prompt: list[int]
    completion: list[int]


def new_model(
    tokenizer: PreTrainedTokenizerFast, max_length: int, width: int = 128, depth: int = 4
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, drawn from torch's global generator; of about 0.6 M parameters if no size is given.

    width: a multiple of the size of a head, 32.
    """
    heads = width // 32
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=2 if heads % 2 == 0 else 1,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=max_length,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def pretrain(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    held_out: Set[str],
    slips: Slips | None = PUPIL,
) -> None:
    """Trains the model in place, on problems drawn afresh whose text is not in `held_out`.

    slips: those of the plain examples; a model without any is a teacher for the others.
    """
    rng = random.Random(f"{seed}/pretraining")
    examples = Examples(tokenizer, rng, held_out, slips)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(recipe))
    for step in range(1, recipe.steps + 1):
        # two passes, since the kinds differ in length and padding one to the other would be a third of the work
        kinds = [
            [examples.plain() for _ in range(recipe.plain)],
            [examples.privileged() for _ in range(recipe.privileged)],
        ]
        batches = [batch for batch in kinds if batch]
        tokens = sum(len(example.completion) for batch in batches for example in batch)
        loss = 0.0
        for batch in batches:
            part = completion_loss_sum(model, batch, examples.pad_id) / tokens
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % LOG_EVERY == 0:
            logger.info("pretraining step %d of %d: loss %.4f", step, recipe.steps, loss)


class Examples:
    """Draws training examples, through the very prompts that training and evaluation use."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, rng: random.Random, held_out: Set[str], slips: Slips | None
    ) -> None:
        self.pad_id = int(tokenizer.pad_token_id)
        self._eos = str(tokenizer.eos_token)
        self._tokenizer = tokenizer
        self._prompts = Prompts(cast(ChatTokenizer, tokenizer))
        self._rng = rng
        self._held_out = held_out
        self._slips = slips

    def plain(self) -> Example:
        chain = self._unseen_chain()
        values = work_with_slips(chain, self._rng, self._slips) if self._slips else work(chain.start, chain.steps)
        return Example(self._prompts.student(chain.problem), self._ids(chain, values))

    def privileged(self) -> Example:
        chain = self._unseen_chain()
        prompt = self._prompts.teacher(chain.problem, reference_solution(chain))
        return Example(prompt, self._ids(chain, work(chain.start, chain.steps)))

    def _unseen_chain(self) -> Chain:
        while (chain := random_chain(self._rng)).problem in self._held_out:
            pass
        return chain

    def _ids(self, chain: Chain, values: list[int]) -> list[int]:
        return list(self._tokenizer.encode(completion(chain, values) + self._eos, add_special_tokens=False))


def completion_loss_sum(model: Qwen3ForCausalLM, batch: list[Example], pad_id: int) -> Tensor:
    """The summed cross-entropy of the completions' tokens, in nats.

    B examples, T tokens in the longest, d the hidden size, N tokens that count, V the vocabulary.
    """
    length = max(len(example.prompt) + len(example.completion) for example in batch)
    ids_BT = torch.full((len(batch), length), pad_id)
    targets_BT = torch.full((len(batch), length), IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids_BT[row, :end] = torch.tensor(prompt + answer)
        targets_BT[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    # padding is on the right: no token that counts attends to it, and no mask is needed
    hidden_BTd = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    counted_BT = targets_BT != IGNORED
    logits_NV = model.lm_head(hidden_BTd[counted_BT])
    return F.cross_entropy(logits_NV, targets_BT[counted_BT], reduction="sum")


def _warmup_cosine(recipe: Recipe) -> Callable[[int], float]:
    """The factor of the learning rate at each step: a linear rise, then half a cosine down to zero."""

    def factor(step: int) -> float:
        if step < recipe.warmup:
            return (step + 1) / recipe.warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup))

    return factor
