"""The paper's Table 1 for one model: python examples/reproduce_paper.py [MODEL [BENCH [STEPS]]]"""

import sys

import phfcli as phf

MODEL, BENCH, STEPS = [*sys.argv[1:], *("Qwen/Qwen3-4B", "paper", "100")[len(sys.argv) - 1 :]]

if __name__ == "__main__":
    evaluated = {"base": phf.evaluate(MODEL, BENCH, n=12)}
    for objective in ("opsd", "phf"):  # with the settings of the model's recipe
        run = phf.train(model=MODEL, objective=objective, steps=int(STEPS))
        evaluated[objective] = phf.evaluate(run, BENCH, n=12)
    print(phf.compare(evaluated))
