"""The model card of a checkpoint: its base model, training data, settings and scores."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError, as_yaml, printable
from phfcli.core.extensions import short_name
from phfcli.core.runs.folder import evaluation_files, recorded_config
from phfcli.core.runs.summaries import read_summary
from phfcli.core.settings import leaves, parse_yaml, recipe_leaves
from phfcli.core.storage.files import read_text
from phfcli.core.version import __version__

_PAPER = "*Privileged Hidden Flow for On-Policy Self-Distillation*, arXiv 2606.29340"
_Z95 = 1.96  # standard errors on each side of a 95% interval


def card_of(run: Path, step: int, repo: str = "OWNER/NAME") -> str:
    """The card of a run's checkpoint, with the scores of all its evaluations in the run's folder."""
    summaries = [read_summary(path) for path in evaluation_files(run, "summary.json")]
    own = [summary for summary in summaries if summary.get("step") == step]
    return model_card(recorded_config(run), step, own, repo)


def model_card(
    config: TrainConfig, step: int, summaries: Sequence[Mapping[str, Any]] = (), repo: str = "OWNER/NAME"
) -> str:
    """The card as Markdown, with the header that the hub reads.

    Args:
        summaries: the summaries of this checkpoint's evaluations.
        repo: the repository that the checkpoint is sent to, for the lines that load it.
    """
    adapter = config.tuning == "lora"
    hub_base, hub_data, licence = _hub_id(config.model), _hub_id(config.data), _licence(config.model)
    objective = short_name(config.objective)
    header = {
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": hub_base} if hub_base else {}),
        **({"license": licence} if licence else {}),
        **({"datasets": [hub_data.split(":")[0]]} if hub_data else {}),
        "pipeline_tag": "text-generation",
        "tags": ["phfcli", objective, "distillation", *(["lora"] if adapter else [])],
        **({"model-index": [_index(repo, summaries)]} if summaries else {}),
    }
    named = f" ({licence})" if licence else ""
    kind = "A LoRA adapter of" if adapter else "All weights of"
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {printable(Path(config.model).name)}, {objective}, step {step}

{kind} `{printable(public(config.model))}`, trained on `{printable(public(config.data))}` with the objective
`{objective}` by phf {__version__}. The method: {_PAPER}.

## Scores

{_scores(summaries)}

## Loading it

{_loading(printable(public(config.model)), repo, adapter)}

## Intended use

Research on reasoning. It inherits the limits and the licence of its base model{named}: see the pages of the base
model and of the data set before you share it.

## Settings

The settings that differ from phf's defaults; the run's `config.yaml` has all of them.

```yaml
{_settings(config)}
```
"""


def _index(repo: str, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scores in the form that the hub shows beside the card, in percent."""
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": printable(str(s["bench"])), "type": printable(str(s["bench"]))},
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"Average@{s.get('n')}, %: {_interval(s)}",
                    "value": round(100 * s["average"], 1),
                }
            ],
        }
        for s in summaries
    ]
    return {"name": repo.rpartition("/")[2], "results": results}


def _loading(base: str, repo: str, adapter: bool) -> str:
    """Lines that load the checkpoint in transformers, with PEFT if it is an adapter, and in vLLM."""
    if adapter:
        lines = [
            "from peft import AutoPeftModelForCausalLM",
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}")',
        ]
        serve = f"vllm serve {base} --enable-lora --lora-modules phf={repo}"
    else:
        lines = ["from transformers import AutoModelForCausalLM"]
        lines += [f'model = AutoModelForCausalLM.from_pretrained("{repo}")']
        serve = f"vllm serve {repo}"
    return "\n".join(["```python", *lines, "```", "", "```bash", serve, "```"])


def _scores(summaries: Sequence[Mapping[str, Any]]) -> str:
    if not summaries:
        return "Not evaluated when this card was written; `phf push` writes it anew."
    rows = [
        f"| {printable(str(s['bench']))} | {s.get('n')} | {s.get('problems')} | {_interval(s)} |" for s in summaries
    ]
    return "\n".join(["| bench | n | problems | Average@n, % (95 % interval) |", "|---|---|---|---|", *rows])


def _interval(summary: Mapping[str, Any]) -> str:
    """Average@n with its 95% interval over problems, limited to 0 and 100 %."""
    mean, stderr = summary["average"], summary.get("stderr")
    if stderr is None:
        return f"{100 * mean:.1f}"
    low, high = max(mean - _Z95 * stderr, 0), min(mean + _Z95 * stderr, 1)
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _settings(config: TrainConfig) -> str:
    """A YAML line for each setting that is not the default; a comment names the recipe that sets it."""
    defaults, recipe = leaves(TrainConfig().model_dump(mode="json")), recipe_leaves(config.model, config.objective)
    lines = []
    for key, value in leaves(public(config.model_dump(mode="json"))).items():
        if value != defaults.get(key):
            recipe_value, source = recipe.get(key, (None, ""))
            text = f"{key}: {as_yaml(value)}"
            lines.append(f"{text}  # {source}" if source and recipe_value == value else text)
    return "\n".join(lines)


def _licence(model: str) -> str | None:
    """The licence in the base model's card, if the card is on this machine and can be read; else None.

    Errors are ignored: a run does not need the folder of its base model, so a bad card there must not stop it.
    """
    try:
        cached = try_to_load_from_cache(model, "README.md") if _hub_id(model) else None
        card = Path(cached) if isinstance(cached, str) else Path(model) / "README.md"
        header = re.match(r"---\n(.*?)\n---", read_text(card), re.DOTALL)
        found = parse_yaml(header[1], str(card)) if header else None
    except (OSError, UserError, HFValidationError):
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return licence if isinstance(licence, str) and re.fullmatch(r"[\w.+-]+", licence) else None


def public(value: Any) -> Any:
    """Settings, or one of them, for others to read: of a file or folder only its name, without the path to it here."""
    if isinstance(value, Mapping):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _hub_id(name: str) -> str | None:
    """The name if it has the form of a hub id; None for a folder, a file or embedded data."""
    return None if Path(name).exists() or name.count("/") != 1 else name
