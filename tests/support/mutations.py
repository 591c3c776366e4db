"""Valid content of every file that is read back, and ways to damage content: in its tree, or in its bytes."""

import copy
import random
from typing import Any

from phfcli.core.storage import schemas
from phfcli.core.storage.schemas import Form
from phfcli.core.studies.record import RecordForm

ROLLOUT = {
    **{"student_prompt": [1], "teacher_prompt": [1, 2], "completion": [3], "problem": "p", "context": "c"},
    **{
        "tokens": ["t"],
        "student": [-0.1],
        "teacher": [-0.2],
        "divergence": [0.1],
        "clip_took": [0.0],
        "flow": {"1": 0.5},
    },
}
EVALUATION = {"average": 0.5, "stderr": None, "n": 2, "scores": {"p": 0.5}}
VALID_FORMS: dict[type[Form], dict[str, Any]] = {
    schemas.TrainerForm: {"step": 3, "model": "m", "schedule": {"last_epoch": 3}, "sha256": {"a": "b"}},
    schemas.ManifestForm: {"created": "now", "model": {"name": "m"}, "resumed": [{"step": 1}]},
    schemas.StepForm: {"step": 1, "loss": 0.5},
    schemas.AlarmForm: {"step": 1, "alarm": "clip", "sentence": "s"},
    schemas.RolloutsForm: {"step": 1, "rollouts": [ROLLOUT]},
    RecordForm: {
        **{"model": "m", "system": "s", "seed": 0, "settings": {}, "evaluation_settings": {}, "rate": 1e-3},
        **{"evaluations": {"60": {"b": EVALUATION}}, "seconds_per_step": 1.0, "peak_memory_bytes": 1, "energy": None},
    },
    schemas.ValidationForm: {"step": 1, "bench": "b", "average": 0.5},
    schemas.AdapterForm: {"r": 8, "rank_pattern": {"q": 4}, "base_model_name_or_path": "m"},
    schemas.EvaluationSettingsForm: {"model": {"name": "m"}, "seed": 0, "sampling": {"top_p": 1}, "prompt": {}},
    schemas.SampleForm: {"problem": "p", "sample": 0, "status": "correct", "answer": None, "tokens": 3, "text": "t"},
    schemas.SummaryForm: {"bench": "b", "average": 0.5, "target": "t", "step": None, "n": 2, "scores": {"p": [0, 1]}},
}

_OTHERS = [
    *(None, True, -1, 0, 10**30, 10**400, 0.5, 40.0, -0.0, float("inf"), float("-inf"), float("nan")),
    *("", " ", "text", "nan", "\ud800", "a\u2028b", "\x1b[31m", "../../x", "x" * 5000),
    *([], [1], [None], {}, {"a": 1}, [[[]]], {"role": "user"}, [{"role": "user", "content": "P"}]),
]
_BYTES = [b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"}", b"[" * 100_000, b"9" * 5000, b"NaN", b"\n", b"\xe2\x80\xa8"]


def mutated(tree: Any, draw: random.Random) -> Any:
    """The tree with one thing changed: a key lost or renamed, or a value replaced, at any depth."""
    tree = copy.deepcopy(tree)
    if isinstance(tree, dict) and tree:
        key = draw.choice(list(tree))
        kind = draw.random()
        if kind < 0.2:
            del tree[key]
        elif kind < 0.3:
            tree[f"{key}x"] = tree.pop(key)
        elif kind < 0.7 and isinstance(tree[key], dict | list) and tree[key]:
            tree[key] = mutated(tree[key], draw)
        else:
            tree[key] = draw.choice(_OTHERS)
        return tree
    if isinstance(tree, list) and tree:
        place = draw.randrange(len(tree))
        tree[place] = mutated(tree[place], draw) if draw.random() < 0.5 else draw.choice(_OTHERS)
        return tree
    return draw.choice(_OTHERS)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes cut short, with one bit flipped, or with other bytes in the place of some."""
    place = draw.randrange(len(content))
    kind = draw.random()
    if kind < 0.3:
        return content[:place]
    if kind < 0.6:
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    return content[:place] + draw.choice(_BYTES) + content[place + draw.randrange(3) :]
