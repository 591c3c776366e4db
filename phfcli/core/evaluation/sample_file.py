"""The samples of one evaluation on disk: a line each, keyed by (problem, sample), appended as they are graded."""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.storage.files import append_lines, drop_cut_line, read_json, read_lines, write_json
from phfcli.core.types import Problem

GradedSample = dict[str, Any]  # a line of samples.jsonl
Key = tuple[str, int]  # problem id, number of the sample

_WRITTEN_FIRST = {"lock", ".settings.json.tmp"}


@dataclass(frozen=True)
class SampleFile:
    """FOLDER/samples.jsonl, and beside it the settings under which every line of it was drawn."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "samples.jsonl"

    @contextmanager
    def claim(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[None]:
        """Locks the folder for this process while the context lasts; a new folder records `settings` and `about`.

        Raises:
            UserError: where the folder holds samples of other settings, something else, or another process at work.
        """
        new = not self.folder.exists() or {p.name for p in self.folder.iterdir()} <= _WRITTEN_FIRST
        if not new and not (self.folder / "settings.json").is_file():
            raise UserError(f"{self.folder} holds something else; choose another --output-dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.folder}: another evaluation is writing here; wait for it to end") from None
            if new:
                write_json(self.folder / "settings.json", {**settings, **about})
            else:
                self._check(settings)
                drop_cut_line(self.path)
            yield

    def read(self, problems: Sequence[Problem], n: int) -> dict[Key, GradedSample]:
        """The samples of these problems; a key that stands twice counts once."""
        wanted = {(p.id, i) for p in problems for i in range(n)}
        keyed = {(line["problem"], line["sample"]): line for line in reversed(read_lines(self.path))}
        return {key: line for key, line in keyed.items() if key in wanted}

    def append(self, samples: Sequence[GradedSample]) -> None:
        append_lines(self.path, samples)

    def _check(self, settings: Mapping[str, Any]) -> None:
        before = read_json(self.folder / "settings.json")
        for key, value in settings.items():
            if before.get(key) != value:
                raise UserError(
                    f"{self.folder} was sampled with {key} {before.get(key)!r}, now it is {value!r}; "
                    "remove the folder or choose another --output-dir"
                )
