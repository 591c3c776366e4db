"""The settings that were removed, so that files of earlier versions can still be read.

A run's config.yaml and a study's record hold every setting of their version. A removed setting at its old default has
changed nothing, and is dropped; at another value it has shaped the run in a way that this version does not know.
"""

import math
from collections.abc import Mapping
from typing import Any

from phfcli.core.errors import UserError

LAST_VERSION = "0.2"  # the last version that had these settings

# the dotted key of each removed setting, with its default in that version
RETIRED: dict[str, Any] = {
    "compile": False,
    "flow.saved_dtype": "model",
    "flow.saved_every": 1,
    "health.every": None,
    "health.fork_entropy": math.log(2),
    "offload.optimizer": False,
    "offload.teacher": False,
    "oisd.queries": 32,
    "oisd.strided": 64,
    "oisd.window": 64,
    "opd.ratio_cap": 2.0,
    "opd.top_k": 16,
    "teacher.server": None,
}

# of settings that are still there, the values that were removed
RETIRED_VALUES: dict[str, tuple[Any, ...]] = {"weights": ("early", "late", "forks", "prefix-importance")}


def without_retired(tree: Mapping[str, Any], file: str, prefix: str = "") -> dict[str, Any]:
    """Settings as an earlier version wrote them, without the removed ones.

    Args:
        tree: the settings of a file, nested in sections.
        file: its path, for the message.
        prefix: the dotted key of the section that `tree` holds, with a dot behind it; empty for all settings.

    Raises:
        UserError: for a removed setting at another value than its default, or a removed value.
    """
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in RETIRED:
            if value != RETIRED[key]:
                raise UserError(
                    f"{file}: {key}: {value!r} was set, and the setting was removed after version {LAST_VERSION}; "
                    f"use phfcli {LAST_VERSION} for this file"
                )
        elif value in RETIRED_VALUES.get(key, ()):
            raise UserError(
                f"{file}: {key}: {value!r} was removed after version {LAST_VERSION}; "
                f"use phfcli {LAST_VERSION} for this file"
            )
        elif isinstance(value, Mapping) and value:
            section = without_retired(value, file, f"{key}.")
            if section:  # a section is dropped when all of its settings were
                kept[name] = section
        else:
            kept[name] = value
    return kept
