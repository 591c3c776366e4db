"""The table at the head of docs/guides/gpus.md: `python docs/site/gpu_table.py` prints it.

It is counted on the models' shapes, as `phf train --dry-run` counts; no GPU has run it.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from phfcli.core.settings import file_sources, option_source, resolve_train
from phfcli.core.training.plan import Plan, plan_run

SIZES = {  # hidden size, blocks, heads, intermediate size, tied head
    "1.7b": (2048, 28, 16, 6144, True),
    "4b": (2560, 36, 32, 9728, True),
    "8b": (4096, 36, 32, 12288, False),
}
PROCESSES = 8
HEAD = """\
| | weights to download | memory of each of 8 processes | GPU hours on H100: updates | drawing | on A100 | on 4090 |
|---|---|---|---|---|---|---|"""


def config(hidden: int, depth: int, heads: int, inner: int, tied: bool) -> dict[str, Any]:
    """The config.json of a Qwen3."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": inner,
        "tie_word_embeddings": tied,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "attention_bias": False,
    }


def row(size: str, folder: Path) -> str:
    """The row of a model, which is planned from its config alone, in a folder that is written."""
    (folder / "config.json").write_text(json.dumps(config(*SIZES[size])))
    sources = [*file_sources([f"qwen3-{size}"]), option_source("--model", "model", str(folder))]
    plan = plan_run(resolve_train(sources), PROCESSES)
    assert plan.memory is not None
    weights, total = plan.memory.always["weights"] / 1e9, plan.memory.at_peak()["total"] / 2**30
    parts = [_hours(plan, "H100", "updates"), _hours(plan, "H100", "drawing")]
    sums = [_hours(plan, gpu, "updates", "drawing") for gpu in ("A100", "4090")]
    return f"| Qwen3-{size.upper()} | {weights:.1f} GB | {total:.1f} GiB | {' | '.join([*parts, *sums])} |"


def _hours(plan: Plan, gpu: str, *parts: str) -> str:
    """From the least that products and bytes allow to 30% of that speed; nothing where the memory does not fit."""
    if gpu not in plan.gpu_hours:
        return "does not fit"
    least, likely = (sum(plan.gpu_hours[gpu][part][end] for part in parts) for end in (0, 1))
    return f"{least:.2g} to {likely:.2g}"


if __name__ == "__main__":
    sys.stdout.write(f"{HEAD}\n")
    for name in SIZES:
        with tempfile.TemporaryDirectory() as place:
            sys.stdout.write(f"{row(name, Path(place))}\n")
