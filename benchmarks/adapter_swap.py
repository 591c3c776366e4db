"""What a new adapter costs a running vLLM: `python benchmarks/adapter_swap.py [--swaps 6]`.

After each swap the same requests are drawn in two ways: as the engine does it, the adapter loaded once under a new
name; and with `load_inplace` on every request, as vLLM offers it, under which its worker reads the adapter from disk
again at each forward pass. So the second way's cost grows with the length of the rollouts.
"""

import os
import statistics
import time
from typing import Annotated

import torch
import typer
from rich.console import Console

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import VllmEngine
from phfcli.core.types import Request, Sampling

REQUESTS = 8
INPLACE = 1_000_000  # the number of an adapter that is loaded in place
PROMPT = (7, 8, 9, 10)


def main(
    swaps: Annotated[int, typer.Option(help="For each length and way.")] = 6,
    lengths: Annotated[str, typer.Option(help="Most tokens of a completion.")] = "8,64,256",
) -> None:
    """Time swaps and the rollouts after them."""
    out = Console(highlight=False)
    settings = ModelSettings(device="cpu")
    model = add_lora(load_model(settings), LoraSettings(r=64), seed=0)
    engine = VllmEngine(Serving(settings, length=512), rank=64, training=True)
    try:
        for length in map(int, lengths.split(",")):
            for way in ("loaded once", "load_inplace"):
                times = [_swap(engine, model, length, inplace=way == "load_inplace") for _ in range(swaps + 1)][1:]
                swap, drawing, longest = (statistics.median(column) for column in zip(*times, strict=True))
                out.print(
                    f"{way:<12} swap {1000 * swap:6.1f} ms  {longest:3.0f} tokens {drawing:5.2f} s  "
                    f"{1000 * drawing / longest:5.1f} ms a pass"
                )
    finally:
        engine.close()


def _swap(engine: VllmEngine, model: LanguageModel, length: int, inplace: bool) -> tuple[float, float, int]:
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(1e-3 * torch.randn_like(p))
    started = time.perf_counter()
    engine.update(model)
    if inplace:
        folder = engine._adapter_folder / "again"
        model.network.save_pretrained(str(folder), save_embedding_layers=False)
        engine._adapter = type(engine._adapter)("in-place", INPLACE, str(folder), load_inplace=True)
    swapped = time.perf_counter()
    requests = [Request(PROMPT, seed) for seed in range(REQUESTS)]
    drawn = list(engine.sample(requests, Sampling(max_new_tokens=length)))
    return swapped - started, time.perf_counter() - swapped, max(len(completion.ids) for _, completion in drawn)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
