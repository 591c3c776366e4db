"""`phf compare`, `report` and `grade` on the samples of a long thinking evaluation: CPU seconds and peak memory.

    python benchmarks/around.py [--problems 30] [--samples 64] [--tokens 38912] [--commands compare,grade]

It writes two evaluations of `--problems` x `--samples` completions of `--tokens` tokens, four characters each: some
300 MB of text in each at the default sizes. The time is user and system time of the command with its workers, the
memory the most of any one process. `grade-own` leaves out the two policies of math-verify. Twice the samples should
take twice the time. First, the seconds of the grader alone beside those of sampling.
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.commands import command_cost

from phfcli.core.evaluation.samples import SampleFile
from phfcli.core.grading import build_grader
from phfcli.core.runs.summaries import write_summary
from phfcli.core.storage.seals import write_sealed

_CHARACTERS = 4  # of a token
_PART = 8  # samples written or graded at once
_RATE = 20_000  # tokens a second: of vLLM on an H100, all sequences together
_SENTENCE = (
    "so let us compute the value of x again , wait , that is not right : we have $x^2 + 2x = 15$ → hence √16 and "
    "\\frac{3}{4} \\cdot 8 = 6 , but then \\boxed{7} would be wrong because n ≥ 3 . First , therefore , if"
)


def thinking(rng: random.Random, tokens: int, answer: str) -> str:
    """A completion of so many tokens: words, formulas and boxes on the way, then the answer in a box."""
    paragraph = " ".join(rng.choices(_SENTENCE.split(" "), k=400)) + "\n\n"
    body = (paragraph[rng.randrange(40) :] for _ in range(tokens * _CHARACTERS // len(paragraph)))
    return f"<think>\n{''.join(body)}</think>\n\nThe answer is \\boxed{{{answer}}}."


def samples_of(args: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    """The lines of samples.jsonl: half of the answers are right, some need the parser, a tenth is cut off."""
    rng = random.Random(seed)
    for problem in range(args.problems):
        gold = str(100 + problem)
        for number in range(args.samples):
            cut, right = rng.random() < 0.1, rng.random() < 0.5
            answer = (
                rng.choice((gold, f"{gold}.0", rf"\frac{{{2 * int(gold)}}}{{2}}")) if right else f"{number}+\\sqrt{{2}}"
            )
            text = thinking(rng, args.tokens, answer)
            yield {
                "problem": f"p{problem:03d}",
                "sample": number,
                "status": "truncated" if cut else "correct" if right else "wrong",
                "answer": None if cut else answer,
                "gold": gold,
                "golds": [gold],
                "tokens": args.tokens,
                "seed": rng.getrandbits(32),
                "text": text[: len(text) - 40] if cut else text,
            }


def write_evaluation(folder: Path, args: argparse.Namespace, seed: int) -> None:
    """Writes samples.jsonl, settings.json and summary.json as `phf eval` does."""
    folder.mkdir(parents=True)
    file, part, scores = SampleFile(folder), list[dict[str, Any]](), dict[str, list[int]]()
    for sample in samples_of(args, seed):
        scores.setdefault(sample["problem"], []).append(int(sample["status"] == "correct"))
        part.append(sample)
        if len(part) == _PART:
            file.append(part)
            part.clear()
    file.append(part)
    about = {"bench": "long", "n": args.samples, "model": {"name": "made"}, "adapter_sha256": None}
    write_sealed(folder / "settings.json", about)
    means = [statistics.fmean(values) for values in scores.values()]
    summary = {"target": folder.name, "bench": "long", "problems": args.problems, "n": args.samples, "scores": scores}
    stderr = statistics.stdev(means) / len(means) ** 0.5
    write_summary(folder, {**summary, "average": statistics.fmean(means), "stderr": stderr, "model": "made"})


def grading_s(args: argparse.Namespace) -> tuple[float, int]:
    """CPU seconds, with those of the workers, in which the grader grades an evaluation's samples; their number."""
    before, part, spent, count = _children_s(), list[tuple[str, str]](), 0.0, 0
    with build_grader("math") as grader:
        for sample in samples_of(args, 0):
            part.append((sample["gold"], sample["text"]))
            count += 1
            if len(part) == _PART or count == args.problems * args.samples:
                start = time.process_time()
                grader.grade(part)
                spent += time.process_time() - start
                part.clear()
    return spent + _children_s() - before, count


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=38_912)
    parser.add_argument("--commands", default="compare,report,grade,grade-own")
    args = parser.parse_args()
    seconds, count = grading_s(args)
    drawn_s = count * args.tokens / _RATE
    print(f"grading {count} samples: {seconds:.1f} CPU s; sampling them at {_RATE} tokens/s: {drawn_s:.0f} s")
    with tempfile.TemporaryDirectory() as name:
        one, other = Path(name, "one"), Path(name, "other")
        for seed, folder in enumerate((one, other)):
            write_evaluation(folder, args, seed)
        mib = (one / "samples.jsonl").stat().st_size / 2**20
        print(f"{args.problems} x {args.samples} x {args.tokens} tokens: {mib:.0f} MiB each")
        for command in args.commands.split(","):
            words = {
                "compare": ["compare", str(one), str(other)],
                "report": ["report", str(one), str(other), "--output", f"{name}/report.html"],
                "grade": ["grade", str(one)],
                "grade-own": ["grade", str(one), "--policies", "phf,no-thinking,last-number,strict"],
            }[command]
            seconds, mib, code = command_cost(words, Path(name, "log"))
            told = "" if code == 0 else f", exit code {code}: {Path(name, 'log').read_text()[-300:]}"
            print(f"phf {command:9s} {seconds:6.1f} CPU s  {mib:6.0f} MiB{told}", flush=True)
        page = Path(name, "report.html")
        print(f"the page of the report: {page.stat().st_size / 2**20 if page.exists() else 0:.1f} MiB")


if __name__ == "__main__":
    main()
