"""A benchmark of one's own with its own grader: is the last number of the completion even, as the gold answer says?"""

import re
from collections.abc import Iterator

import phfcli as phf
from phfcli.grading import Grade, Status


def rows() -> Iterator[dict[str, str]]:
    for start in (12, 23, 34):
        yield {"problem": f"Start with {start}, add 8.", "answer": "odd" if start % 2 else "even"}


def last_number(gold: str, completion: str) -> Grade:
    numbers = re.findall(r"\d+", completion)
    if not numbers:
        return Grade(Status.no_answer, None)
    parity = "odd" if int(numbers[-1]) % 2 else "even"
    return Grade(Status.correct if parity == gold else Status.wrong, parity)


if __name__ == "__main__":
    phf.register_benchmark("parity", rows, grader=last_number)
    scores = phf.evaluate("embedded", "parity", n=4, engine="transformers")
    print(scores)
