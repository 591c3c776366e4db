"""Measures the base model on a problem set: the figures that the manifest states and that training starts from.

It samples with transformers alone, so that the data can be built before the rest of the project runs.
"""

import re
import statistics
from collections.abc import Sequence
from typing import Any, cast

import torch
from arithmetic import STEPS, Chain, completion, reference_solution, work, written_steps
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from phfcli.core.models.prompts import ChatTokenizer, Prompts

SAMPLES = 12
TEMPERATURE = 1.0
TOP_P = 0.95
MAX_NEW_TOKENS = 64  # a completion takes at most 45

_EQUATION = r"-?\d+[-+*]\d+=-?\d+\n"
_WELL_FORMED = re.compile(rf"<think>\n(?:{_EQUATION}){{{STEPS}}}</think>\n\n\\boxed{{-?\d+}}<\|im_end\|>")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, chains: Sequence[Chain], seed: int
) -> dict[str, float]:
    """Accuracies as fractions. Average@n is the mean over problems, its standard error is taken over problems."""
    torch.manual_seed(seed)
    prompts = Prompts(cast(ChatTokenizer, tokenizer))
    plain = [prompts.student(chain.problem) for chain in chains]
    privileged = [prompts.teacher(chain.problem, reference_solution(chain)) for chain in chains]
    answers = [work(chain.start, chain.steps)[-1] for chain in chains]
    sampled = complete(model, tokenizer, plain, samples=SAMPLES)
    shown = complete(model, tokenizer, privileged, samples=SAMPLES)
    rates = success_rates(sampled, answers)
    formats = [bool(_WELL_FORMED.fullmatch(text)) for texts in sampled for text in texts]
    return {
        f"average_at_{SAMPLES}": statistics.mean(rates),
        "stderr": statistics.stdev(rates) / len(rates) ** 0.5,
        f"pass_at_{SAMPLES}": statistics.mean(rate > 0 for rate in rates),
        "greedy": statistics.mean(success_rates(complete(model, tokenizer, plain), answers)),
        f"privileged_average_at_{SAMPLES}": statistics.mean(success_rates(shown, answers)),
        "privileged_greedy": statistics.mean(success_rates(complete(model, tokenizer, privileged), answers)),
        "valid_format": statistics.mean(formats),
    } | carry_beliefs(model, tokenizer, prompts, chains)


def success_rates(completions: Sequence[Sequence[str]], answers: Sequence[int]) -> list[float]:
    """The share of each problem's completions whose last box holds the right answer."""
    return [
        statistics.mean(_BOXED.findall(text)[-1:] == [str(answer)] for text in texts)
        for texts, answer in zip(completions, answers, strict=True)
    ]


@torch.inference_mode()
def complete(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[list[int]], samples: int = 0
) -> list[list[str]]:
    """Completions of each prompt, special tokens included, padding excluded; one greedy one if `samples` is 0."""
    ids, mask = _pad_left(prompts, int(tokenizer.pad_token_id))
    drawn = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0, "num_return_sequences": samples}
    how = drawn if samples else {"do_sample": False}
    rows = cast(Any, model).generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **how)
    texts = [text.replace(tokenizer.pad_token, "") for text in tokenizer.batch_decode(rows[:, ids.shape[1] :])]
    each = max(samples, 1)
    return [texts[start : start + each] for start in range(0, len(texts), each)]


def carry_beliefs(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Prompts, chains: Sequence[Chain]
) -> dict[str, float]:
    """What the model believes where a right solution carries or borrows, under either prompt.

    Mean probabilities of the first token that tells the right result from the one with the carry forgotten, and the
    share of places where the forgotten one is the likelier.
    """
    plain, privileged, right, forgotten = [], [], [], []
    for chain in chains:
        for prefix, right_token, forgotten_token in _carry_places(chain):
            written = tokenizer.encode(prefix, add_special_tokens=False)
            plain.append(prompts.student(chain.problem) + written)
            privileged.append(prompts.teacher(chain.problem, reference_solution(chain)) + written)
            right += tokenizer.encode(right_token, add_special_tokens=False)
            forgotten += tokenizer.encode(forgotten_token, add_special_tokens=False)
    rows = torch.arange(len(right))
    plain_NV = _next_token_probabilities(model, plain, int(tokenizer.pad_token_id))
    privileged_NV = _next_token_probabilities(model, privileged, int(tokenizer.pad_token_id))
    return {
        "carry_places": len(right),
        "carry_right_plain": plain_NV[rows, right].mean().item(),
        "carry_right_privileged": privileged_NV[rows, right].mean().item(),
        "carry_forgotten_plain": plain_NV[rows, forgotten].mean().item(),
        "carry_forgotten_is_likelier": (plain_NV[rows, forgotten] > plain_NV[rows, right]).float().mean().item(),
    }


def _carry_places(chain: Chain) -> list[tuple[str, str, str]]:
    """For each carry: the right completion up to where the forgotten carry would tell, the right token, the other."""
    values = work(chain.start, chain.steps)
    whole = completion(chain, values)
    places, end = [], whole.index("\n") + 1
    for step, before, equation in zip(chain.steps, [chain.start, *values], written_steps(chain, values), strict=False):
        right, forgotten = f"{step.on(before)}\n", f"{step.without_carry(before)}\n"
        if right != forgotten:
            shared = next(i for i, (a, b) in enumerate(zip(right, forgotten, strict=False)) if a != b)
            result_at = end + equation.index("=") + 1
            places.append((whole[: result_at + shared], right[shared], forgotten[shared]))
        end += len(equation) + 1
    return places


@torch.inference_mode()
def _next_token_probabilities(model: Qwen3ForCausalLM, sequences: Sequence[list[int]], pad_id: int) -> Tensor:
    """The distribution after each sequence, [N, V]."""
    ids, mask = _pad_left(sequences, pad_id)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits
    return logits[:, -1].softmax(-1)


def _pad_left(sequences: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and the mask of those that are no padding."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(sequence)) + sequence for sequence in sequences])
    mask = torch.tensor([[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences])
    return ids, mask
