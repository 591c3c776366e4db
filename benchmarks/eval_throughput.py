"""What `phf eval` costs beside vLLM itself: `python benchmarks/eval_throughput.py [--model M] [--n 12] [--rounds 3]`.

In turn, each in a fresh process: vLLM's own `LLM.generate` on an evaluation's very prompts, seeds and settings, and
`phf eval`, whose time includes decoding, grading every answer and writing every sample to disk. Starts are left out of
both. The figure is the median over the rounds of phf's tokens per second over bare vLLM's.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from phfcli.core.config import EvalConfig, PromptSettings
from phfcli.core.evaluation.benchmarks import load_benchmark
from phfcli.core.evaluation.samples import sampling_of
from phfcli.core.models.description import load_description
from phfcli.core.models.device import pick_device
from phfcli.core.models.prompts import build_prompts
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import engine_options, vllm_gap
from phfcli.core.seeds import derive_seed


def main(
    model: Annotated[str, typer.Option(help="A model without an adapter.")] = "embedded",
    bench: Annotated[str, typer.Option(help="One benchmark.")] = "embedded",
    n: Annotated[int, typer.Option(help="Samples per problem.")] = 12,
    rounds: Annotated[int, typer.Option(help="How often each is timed.")] = 3,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    bare: Annotated[bool, typer.Option("--bare", hidden=True)] = False,
) -> None:
    """Measure the throughput of `phf eval` against bare vLLM."""
    if bare:
        print(json.dumps(generate(EvalConfig(model=model, n=n, bench=(bench,)))))
        return
    results = [(_bare(model, bench, n), _phf(model, bench, n)) for _ in range(rounds)]
    ratios = [phf["tokens_per_s"] / alone["tokens_per_s"] for alone, phf in results]
    figures = {
        "samples": results[0][1]["samples"],
        "bare_tokens_per_s": [alone["tokens_per_s"] for alone, _ in results],
        "phf_tokens_per_s": [phf["tokens_per_s"] for _, phf in results],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    if json_:
        print(json.dumps(figures, indent=2))
        return
    out = Console(highlight=False)
    for number, (alone, phf) in enumerate(results, start=1):
        ratio = phf["tokens_per_s"] / alone["tokens_per_s"]
        speeds = f"bare {alone['tokens_per_s']:,.0f}  phf eval {phf['tokens_per_s']:,.0f} tokens/s"
        out.print(f"round {number}  {speeds}  ratio {ratio:.3f}")
    out.print(f"median ratio {figures['ratio']:.3f} over {rounds} rounds of {figures['samples']} samples")


def generate(config: EvalConfig) -> dict[str, Any]:
    """Times bare vLLM on the requests of an evaluation."""
    device = pick_device(config.device)
    if gap := vllm_gap(device):
        raise SystemExit(gap)
    from vllm import LLM, SamplingParams

    description = load_description(config.model)
    bench = load_benchmark(config.bench[0], config)
    prompts = build_prompts(description.tokenizer, PromptSettings())
    sampling = sampling_of(config, description, prompts, bench)
    ids = {p.id: prompts.student(p.problem) for p in bench.problems}
    length = max(map(len, ids.values())) + sampling.max_new_tokens
    options = engine_options(Serving(config, length), None, device, training=False)
    llm = LLM(**{**options, "skip_tokenizer_init": False})
    inputs, params = [], []
    for problem in bench.problems:
        for number in range(config.n):
            inputs.append({"prompt_token_ids": ids[problem.id]})
            params.append(
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    max_tokens=sampling.max_new_tokens,
                    seed=derive_seed(config.seed, problem.problem, number),
                    stop_token_ids=sorted(description.eos_ids),
                )
            )
    started = time.perf_counter()
    outputs = llm.generate(inputs, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds}


def _bare(model: str, bench: str, n: int) -> Any:
    return _json([__file__, "--bare", "--model", model, "--bench", bench, "--n", str(n)])


def _phf(model: str, bench: str, n: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--bench", bench, "--n", str(n), "--engine", "vllm", "--output-dir", str(Path(folder) / "out")]
        return _json(["-m", "phfcli", "eval", model, *options, "--json", "--quiet"])["benches"][0]


def _json(arguments: list[str]) -> Any:
    """The JSON that a program prints last; libraries may have written before it."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("{") :])


if __name__ == "__main__":
    typer.run(main)
