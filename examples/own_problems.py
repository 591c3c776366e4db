"""Training on problems of one's own, with some held out: python examples/own_problems.py [MODEL [STEPS]]"""

import sys

import phfcli as phf

MODEL, STEPS = [*sys.argv[1:], *("embedded", "20")[len(sys.argv) - 1 :]]
ROWS = [  # a file of such rows does as well: data="own.jsonl"
    {"problem": f"Start with {n}, add 8, subtract 5, add 9, add {n + 1}.", "answer": (end := n + 12) + n + 1}
    | {"solution": f"{n}+8={n + 8}; {n + 8}-5={n + 3}; {n + 3}+9={end}; {end}+{n + 1}={end + n + 1}."}
    for n in range(11, 43)
]

if __name__ == "__main__":
    held_out, training = ROWS[::4], [row for place, row in enumerate(ROWS) if place % 4]
    base = phf.evaluate(MODEL, held_out, n=8)
    run = phf.train(model=MODEL, data=training, steps=int(STEPS), config={"divergence.clip": None})
    print(phf.compare({"base": base, "trained": phf.evaluate(run, held_out, n=8)}))
