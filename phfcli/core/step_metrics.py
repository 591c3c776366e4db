"""The metrics of a training step: what each means, which are shares, and which depend on the machine.

Imports nothing heavy, so that a step's line can be printed without matplotlib.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CURVES = {
    "loss": "Loss of each step: the whole objective, so it compares runs of one objective only.",
    "divergence": "Divergence of the next-token distributions, mean over tokens, before its weight.",
    "flow": "Flow loss (eq. 13), mean over rollouts.",
    "pointwise": "Pointwise loss of the states, mean over rollouts.",
    "entropy": "Entropy of the policy's next token, in nats.",
    "fork_share": "Share of tokens that are forks: as open as a choice between two, or more.",
    "repetition": "Share of runs of eight tokens that the rollout has written before.",
    "loops": "Share of rollouts that end in a loop: 2 to 50 tokens, three times at least, 30 tokens in all.",
    "truncated": "Share of rollouts cut at the token limit.",
    "engine_gap": "Gap between the engine's and the trainer's log-probability of a token, in nats.",
    "distinct_answers": "Different answers of a problem's rollouts, mean over problems.",
    "base_kl": "KL divergence of the policy from its base, nats a token, which the loss holds down.",
    "reward": "Share of right completions in training.",
    "gate_share": "Share of the tokens that the gate lets through.",
    "clip_share": "Share of the divergence that the clip takes, and its gradient with it.",
    "turned_tokens": "Share of the tokens whose gradient the clip turns against the divergence.",
    "state_cosine": "Cosine of the two readers' states, mean over layers and positions, then over rollouts.",
    "attention_gap": "Divergence of the shadow block's attention from the last block's, mean over rollouts.",
    "grad_norm": "Norm of the gradient before it is clipped.",
    "rollout_tokens": "Mean length of a rollout, in tokens.",
}
DETAILS = {  # of the page's fold
    "flow_direction": "Direction term of the flow (eq. 6), mean over layers, then over rollouts.",
    "flow_geometry": "Geometry term of the flow (eq. 7), mean over layers, then over rollouts.",
    "flow_adjacent": "Term of neighbouring layers (eq. 10), mean over pairs of layers, then over rollouts.",
    "reverse_kl": "Student's log-probability of the drawn token less the teacher's: an estimate of the KL divergence.",
    "unlikely_logprob": "Log-probability of a rollout's least likely fifth of tokens, nats, mean over these (OPSA).",
    "nll": "Negative log-likelihood of the reference, nats a token.",
    "think": "Divergence of the shadow block's prediction from the last block's, weighted by advantages (OISD, eq. 7).",
    "clipped_entries": "Share of the (token, word) entries that are clipped.",
    "turned_entries": "Share of the clipped entries whose gradient has the opposite sign of the unclipped one.",
    "clipped_tokens": "Share of the tokens with a clipped entry.",
    "weights_capped": "Share of the tokens whose importance weight is at its cap.",
    "engine_kl": "Estimate of KL(engine || trainer), nats a token.",
    "engine_gap_largest": "Largest gap between the engine's and the trainer's log-probability of a token, in nats.",
    "flat_groups": "Share of the problems whose completions all have the same reward, which teach nothing.",
    "foreign_answers": "Share of the problems whose teacher is shown another answer than the gold.",
    "siblings": "Share of the problems for which a right rollout was there to be shown to the teacher.",
    "teacher_distance": "Euclidean distance of the teacher's trained weights from the student's.",
    "states_teacher_distance": "The same of the teacher that gives the hidden states, where that is another one.",
    "lr": "Learning rate.",
    "padding": "Share of the computed positions that hold nothing.",
    "staleness": "Updates between the weights that drew the rollouts and those that train on them.",
    "tokens_per_s": "Tokens of rollouts over the seconds of the whole step.",
    "rollout_seconds": "Seconds of the step's sampling and grading, or of the wait for it.",
    "batch_seconds": "Seconds of making batches.",
    "teacher_seconds": "Seconds of the step's passes without a gradient.",
    "student_seconds": "Seconds of the student's pass.",
    "loss_seconds": "Seconds of the loss, its backward pass and the step's metrics.",
    "update_seconds": "Seconds of the weights' update, and of what several processes sum.",
    "seconds": "Seconds of the whole step.",
    "peak_memory_bytes": "The most memory that a process of the run has held so far, in bytes.",
}

PHASES = ("rollout", "batch", "teacher", "student", "loss", "update")  # of a step; each has a metric of its seconds
# two runs of the same seed differ in these
MACHINE_METRICS = ("tokens_per_s", *(f"{phase}_seconds" for phase in PHASES), "seconds", "peak_memory_bytes")
SHARES = (  # 0..1 in files, percent for people
    "gate_share",
    *(
        "clip_share",
        "clipped_entries",
        "turned_entries",
        "clipped_tokens",
        "turned_tokens",
        "weights_capped",
        "flat_groups",
        "truncated",
    ),
    *("padding", "fork_share", "repetition", "loops", "foreign_answers", "siblings", "reward"),
)


def own_metrics(runs: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """The numbers that a user's own objective has logged, each with its caption."""
    known = {"step", *CURVES, *DETAILS}
    numbers = [key for lines in runs for line in lines for key, value in line.items() if isinstance(value, int | float)]
    return {key: f"{key}, as the objective itself gives it." for key in dict.fromkeys(numbers) if key not in known}
