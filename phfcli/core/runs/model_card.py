"""The model card of a checkpoint: what it was trained from, on what, how, and what it scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from phfcli.core.config import TrainConfig
from phfcli.core.printable import printable
from phfcli.core.settings import write_yaml
from phfcli.core.version import __version__

_PAPER = "*Privileged Hidden Flow for On-Policy Self-Distillation*, arXiv 2606.29340"
_Z95 = 1.96


def model_card(config: TrainConfig, step: int, summaries: Sequence[Mapping[str, Any]] = ()) -> str:
    """The card as Markdown, with the header that the hub reads.

    summaries: of evaluations of this very checkpoint.
    """
    adapter = config.tuning == "lora"
    hub_base, hub_data = _hub_id(config.model), _hub_id(config.data)
    header = {
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": hub_base} if hub_base else {}),
        **({"datasets": [hub_data.split(":")[0]]} if hub_data else {}),
        "tags": ["phfcli", config.objective, "distillation"],
    }
    kind = "A LoRA adapter of" if adapter else "All weights of"
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {printable(Path(config.model).name)}, {config.objective}, step {step}

{kind} `{printable(config.model)}`, trained on `{printable(config.data)}` with the objective
`{config.objective}` by phf {__version__}. The method: {_PAPER}.

## Scores

{_scores(summaries)}

## Intended use

Research on reasoning. It inherits the limits and the licence of its base model: see the pages of the base model and of
the data set before you share it.

## Settings

```yaml
{write_yaml(config).strip()}
```
"""


def _scores(summaries: Sequence[Mapping[str, Any]]) -> str:
    if not summaries:
        return "Not evaluated when this card was written; `phf push` adds the scores."
    rows = [
        f"| {printable(str(s['bench']))} | {s.get('n')} | {s.get('problems')} | {_interval(s)} |" for s in summaries
    ]
    return "\n".join(["| bench | n | problems | Average@n, % (95 % interval) |", "|---|---|---|---|", *rows])


def _interval(summary: Mapping[str, Any]) -> str:
    """A score with its interval over problems, cut at 0 and 100 %."""
    mean, stderr = summary["average"], summary.get("stderr")
    if stderr is None:
        return f"{100 * mean:.1f}"
    low, high = max(mean - _Z95 * stderr, 0), min(mean + _Z95 * stderr, 1)
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _hub_id(name: str) -> str | None:
    """A name that the hub knows; None for a folder, a file or what is embedded."""
    return None if Path(name).exists() or name.count("/") != 1 else name
