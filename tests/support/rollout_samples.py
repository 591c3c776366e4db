"""Some rollouts with rewards, and their log-probabilities from whole logits."""

import torch
from torch import Tensor

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample

CPU = torch.device("cpu")
LENGTHS = [(3, 9, 6), (8, 4, 1), (1, 30, 12), (5, 5, 2), (2, 7, 9), (4, 12, 3), (6, 6, 5), (7, 20, 8)]
REWARDS = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]  # two groups of four
SAMPLES = [
    Sample(
        [3 + i] * a,
        [40 + i] * b,
        [60 + (5 * i + 3 * j) % 150 for j in range(c)],
        logprobs=[-5 - 0.1 * ((3 * i + j) % 7) for j in range(c)],
        reward=REWARDS[i],
        group=REWARDS[i // 4 * 4 :][:4],
    )
    for i, (a, b, c) in enumerate(LENGTHS)
]
# what a loss needs of the rollouts: those of GRPO are of the whole distribution
BASE = {"rollout": {"top_p": 1.0, "top_k": 0}}


def all_logprobs(student: LanguageModel, sample: Sample, temperature: float) -> Tensor:
    """Of a sample's completion, from the whole logits; with a gradient."""
    logits = student.causal(input_ids=torch.tensor([[*sample.student_prompt, *sample.completion]])).logits[0]
    chosen = torch.tensor(sample.completion)[:, None]
    start = len(sample.student_prompt) - 1
    return (logits[start:-1] / temperature).log_softmax(-1).gather(1, chosen)[:, 0]
