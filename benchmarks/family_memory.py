"""The memory plan for families of models beside what they take: `python benchmarks/family_memory.py [KIND ...]`.

Each model has at least 300 MB of weights, random, and trains two steps of PHF on a CPU. Both figures are above the
libraries and the model's weights, so that these cannot hide an error in the rest.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from harness.dry_runs import STEPS, compare_peaks
from harness.models import make_family
from harness.processes import scratch
from harness.tables import Table, mebibytes

TOKENS = 256


@dataclass(frozen=True)
class Case:
    """A model by its `model_type`, its sizes, and what differs in the run."""

    kind: str
    about: str
    sizes: Mapping[str, Any]
    settings: tuple[str, ...] = ()


_COMMON: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 768, "head_dim": 64}
_LINEAR = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2,
}
_CAPPED = {"head_dim": 64, "query_pre_attn_scalar": 64, "tie_word_embeddings": True}
CASES = (
    Case("qwen3", "tied head", {**_COMMON, "head_dim": 64, "tie_word_embeddings": True}),
    Case("llama", "untied head", {**_COMMON, "tie_word_embeddings": False}),
    Case("phi3", "fused projections", {**_COMMON, "tie_word_embeddings": False}),
    Case("gemma2", "capped attention, eager", {**_COMMON, **_CAPPED}),
    Case("gpt2", "full heads, learned positions", {"n_embd": 768, "n_layer": 10, "n_head": 12, "n_positions": 1024}),
    Case("qwen3_moe", "8 experts, 2 of them used", {**_COMMON, **_EXPERTS}),
    Case("qwen3_next", "linear attention and experts", {**_COMMON, **_EXPERTS, **_LINEAR}),
    Case("llama", "nf4", {**_COMMON, "tie_word_embeddings": False}, ("quantization=nf4",)),
    Case("llama", "int8", {**_COMMON, "tie_word_embeddings": False}, ("quantization=int8",)),
)


def measure_families(threads: int, kinds: list[str]) -> Table:
    """A row for each case."""
    rows = []
    with scratch() as folder:
        for number, case in enumerate(CASES):
            if kinds and case.kind not in kinds:
                continue
            model = make_family(folder / f"{number}", case.kind, **case.sizes)
            settings = ("dtype=float32", f"rollout.max_new_tokens={TOKENS}", *case.settings)
            peaks = compare_peaks(model, folder / f"run-{number}", settings, threads)
            loaded = peaks.parts["libraries"] + peaks.parts["weights"]
            predicted, measured = peaks.predicted - loaded, peaks.measured - loaded
            size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
            figures = [mebibytes(size), mebibytes(predicted), mebibytes(measured), f"{predicted / measured - 1:+.1%}"]
            rows.append([f"`{case.kind}`", case.about, *figures, peaks.phase])
    columns = ["family", "", "weights on disk", "predicted", "measured", "error", "peak in"]
    note = (
        f"PHF, {STEPS} steps of 2 rollouts of up to {TOKENS} tokens, float32, LoRA r 64; the peak above the "
        "libraries (as the dry run's own process holds them) and the model's weights."
    )
    return Table("Memory of other families: the dry run beside the run", note, columns, rows)


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Only these model types.")] = None,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Compare the predicted peak of a training step with the measured one, family by family."""
    table = measure_families(threads, kinds or [])
    print(table.markdown()) if markdown else table.show()


if __name__ == "__main__":
    typer.run(main)
