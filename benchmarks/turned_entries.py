"""Which share of the entries that an element clip holds has its gradient turned: random readers, each divergence.

    python benchmarks/turned_entries.py

Logits of a teacher are normal numbers, those of a student the same plus noise; the clip is the published 0.05.
"""

import torch

from phfcli.losses import fused_divergence_stats

VOCABULARY, TOKENS, CLIP = 2000, 1000, 0.05
SPREADS, NOISES = (2.0, 4.0), (0.5, 1.0, 2.0)  # of the teacher's logits, and of what the student adds to them


def main() -> None:
    head = torch.eye(VOCABULARY)
    print("| kind | teacher's spread | noise | entries clipped of a token | of these turned, % |")
    print("| --- | --- | --- | --- | --- |")
    for kind in ("forward_kl", "jsd", "reverse_kl"):
        for spread in SPREADS:
            for noise in NOISES:
                torch.manual_seed(0)
                teacher = spread * torch.randn(TOKENS, VOCABULARY)
                student = teacher + noise * torch.randn(TOKENS, VOCABULARY)
                stats = fused_divergence_stats(student, teacher, head, torch.ones(TOKENS), kind=kind, clip=CLIP)[1]
                turned = 100 * stats.entries_turned / stats.entries_clipped.clamp(min=1)
                print(f"| {kind} | {spread} | {noise} | {stats.entries_clipped / TOKENS:.3f} | {turned:.0f} |")


if __name__ == "__main__":
    main()
