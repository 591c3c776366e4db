"""A model on a benchmark, and its wrong answers: python examples/evaluate_only.py [MODEL [BENCH]]"""

import sys

import phfcli as phf

MODEL, BENCH = [*sys.argv[1:], *("embedded", "embedded-dev")[len(sys.argv) - 1 :]]

if __name__ == "__main__":
    scores = phf.evaluate(MODEL, BENCH, n=4)
    print(scores)
    samples = scores.samples()
    wrong = samples[~samples["correct"]]
    print(wrong[["problem", "gold", "answer", "tokens"]].head(10))
