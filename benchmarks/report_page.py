"""Time to open a report of 10 runs x 90 problems x 12 samples: `python benchmarks/report_page.py [--depth 36]`.

The runs are made up, of a model of 36 blocks with four saved flows and 300 steps of metrics each. The page is written
by the real command and opened by a headless Chromium until its load event and the first frame after it. Prints JSON.
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import typer
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from phfcli.core.reporting.report_page import write_report
from phfcli.core.runs.flows import Flow, Rollout, save_flow
from phfcli.core.storage.files import json_lines, write_json, write_text

BENCHES = ("aime24", "aime25", "hmmt25")


def main(
    runs: int = 10, problems: int = 30, samples: int = 12, depth: int = 36, steps: int = 4, openings: int = 5
) -> None:
    """Write a report of made-up runs and open it; `problems` is of each of three benchmarks."""
    with TemporaryDirectory() as place:
        root = Path(place)
        folders = [make_run(root / f"run{index}", index, problems, samples, depth, steps) for index in range(runs)]
        started = time.perf_counter()
        page = root / "report.html"
        write_report(page, [str(folder) for folder in folders], "A large study")
        written = time.perf_counter() - started
        loads = [opened(page) for _ in range(openings)]
        result = {
            "runs": runs,
            "problems": problems * len(BENCHES),
            "samples": samples,
            "depth": depth,
            "page_bytes": page.stat().st_size,
            "elements": loads[0][1],
            "writing_seconds": round(written, 1),
            "opening_ms": [round(milliseconds) for milliseconds, _ in loads],
            "opening_ms_median": round(statistics.median(milliseconds for milliseconds, _ in loads)),
        }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def make_run(folder: Path, seed: int, problems: int, samples: int, depth: int, steps: int) -> Path:
    rng = random.Random(seed)
    write_text(folder / "config.yaml", f"objective: phf\nseed: {seed}\nflow: {{alpha: 0.0{seed + 1}}}\n")
    lines = [{"step": step, "loss": rng.random(), "flow": rng.random(), "grad_norm": 0.1} for step in range(1, 301)]
    write_text(folder / "metrics.jsonl", json_lines(lines))
    for bench in BENCHES:
        make_evaluation(folder, bench, rng, problems, samples)
    generator = torch.Generator().manual_seed(seed)
    parts = {"positions": torch.arange(64).expand(2, 64).clone(), "valid": torch.ones(2, 64, dtype=torch.bool)}
    for step in range(25, 25 * steps + 1, 25):
        student, teacher = torch.randn(2, depth, 2, 64, 32, generator=generator)
        rollouts = [Rollout((1,), (1,), tuple(range(64)))] * 2
        flow = Flow(student, teacher, **parts, layers=torch.arange(1, depth + 1), rollouts=rollouts, texts={})
        save_flow(folder, step, flow)
    return folder


def make_evaluation(folder: Path, bench: str, rng: random.Random, problems: int, samples: int) -> None:
    lines = [
        {
            "problem": f"{bench}-{problem}",
            "sample": sample,
            "status": "correct" if rng.random() < problem / problems else "wrong",
            "answer": str(rng.randrange(1000)),
            "gold": "204",
        }
        for problem in range(problems)
        for sample in range(samples)
    ]
    place = folder / "evals" / f"{bench}-n{samples}"
    right = sum(line["status"] == "correct" for line in lines) / len(lines)
    figures = {"average": right, "stderr": 0.07, "n": samples, "problems": problems, "bench_sha256": bench}
    write_json(place / "summary.json", {"bench": bench, "target": folder.name, "step": 100, **figures})
    write_text(place / "samples.jsonl", json_lines(lines))


def opened(page: Path) -> tuple[float, int]:
    """Milliseconds until the page is loaded and drawn, in a new browser; and its number of elements."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.get(page.as_uri())
        drawn = driver.execute_async_script(
            "const done = arguments[0]; const load = performance.getEntriesByType('navigation')[0].loadEventEnd;"
            "const paint = performance.getEntriesByName('first-contentful-paint')[0];"
            "done([Math.max(load, paint ? paint.startTime : 0), document.querySelectorAll('*').length]);"
        )
    finally:
        driver.quit()
    return float(drawn[0]), int(drawn[1])


if __name__ == "__main__":
    typer.run(main)
