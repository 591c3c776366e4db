"""The samples of one evaluation on disk: a line each, keyed by (problem, sample), appended as they are graded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.storage.files import append_lines, drop_cut_line, write_json
from phfcli.core.storage.locks import writing_alone
from phfcli.core.storage.schemas import EvaluationSettingsForm, SampleForm, read_form, read_forms, with_sum
from phfcli.core.types import Problem

GradedSample = dict[str, Any]  # a line of samples.jsonl
Key = tuple[str, int]  # problem id, number of the sample

_WRITTEN_FIRST = {"lock", ".settings.json.tmp"}
# what a settings.json without such a key was sampled with
_UNWRITTEN = {"quantization": "none", "grader": "math", "grading": "phf"}


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
        busy = f"{self.folder}: another evaluation is writing here; wait for it to end"
        with writing_alone(self.folder / "lock", busy):
            if new:
                write_json(self.folder / "settings.json", {**settings, **about})
            else:
                self._check(settings)
                drop_cut_line(self.path)
            yield

    def read(self, problems: Sequence[Problem], n: int) -> dict[Key, GradedSample]:
        """The samples of these problems; a key that stands twice counts once."""
        wanted = {(p.id, i) for p in problems for i in range(n)}
        keyed = {(line["problem"], line["sample"]): line for line in reversed(read_forms(self.path, SampleForm))}
        return {key: line for key, line in keyed.items() if key in wanted}

    def append(self, samples: Sequence[GradedSample]) -> None:
        append_lines(self.path, [with_sum(sample) for sample in samples])

    def _check(self, settings: Mapping[str, Any]) -> None:
        before = read_form(self.folder / "settings.json", EvaluationSettingsForm)
        for key, value in settings.items():
            earlier = before.get(key, _UNWRITTEN.get(key, value))
            if earlier != value:
                raise UserError(
                    f"{self.folder} was sampled with {key} {earlier!r}, now it is {value!r}; "
                    "remove the folder or choose another --output-dir"
                )
