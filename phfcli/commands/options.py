"""The options that commands share, each declared once, and the settings that typed options give.

An option that names a `Setting` gives the setting of that dotted key; `settings_given` collects them from a command's
signature, so that no command lists its options a second time.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from phfcli.api.arguments import KEYS
from phfcli.core.errors import UserError
from phfcli.core.extensions import names
from phfcli.core.names import ENGINES, GRADERS, TEACHERS, TRACKERS
from phfcli.core.shipped_files import objectives, recipes

if TYPE_CHECKING:
    from phfcli.core.settings import Source

MODEL, DATA, TRAINING, EVALUATION, OUTPUT = "Model", "Data", "Training", "Evaluation", "Output"  # panels of the help


@dataclass(frozen=True)
class Setting:
    """The setting that an option gives, by its dotted key; `read` turns what was typed into its value."""

    key: str
    read: Callable[[Any], Any] = lambda value: value


def settings_given(command: Callable[..., Any], typed: Mapping[str, Any]) -> "list[Source]":
    """The sources of settings on the command line; later ones win: --config, --set, options that name a setting.

    typed: the command's arguments by their names.
    """
    from phfcli.core.settings import file_sources, option_source, set_sources

    sources = [*file_sources(typed.get("config") or [], "--config"), *set_sources(typed.get("set_") or [], "--set")]
    for name, hint in get_type_hints(command, include_extras=True).items():
        setting = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Setting)), None)
        # an option that was not typed is None: a default on it would silently win over --config
        if setting is not None and typed[name] is not None:
            sources.append(option_source(_label(name, hint), setting.key, setting.read(typed[name])))
    return sources


def names_of(text: str) -> list[str]:
    """The names in a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def file_option(
    help_text: str, *names: str, endings: Sequence[str] = (), metavar: str = "FILE", panel: str | None = OUTPUT
) -> Any:
    """The option of a file that a command writes; a file that cannot be written is refused before the command begins.

    Args:
        names: the option's names as they are typed; with none it is named after the parameter.
        endings: those that the file's name may have; with none it may have any.
    """
    callback = _written_file(endings)
    return typer.Option(*names, metavar=metavar, help=help_text, rich_help_panel=panel, callback=callback)


def _written_file(endings: Sequence[str]) -> Callable[[typer.CallbackParam, Path | None], Path | None]:

    def check(option: typer.CallbackParam, path: Path | None) -> Path | None:
        if path is None:
            return None
        label = next(name for name in option.opts if name.startswith("--"))
        if endings and path.suffix not in endings:
            raise UserError(f"{label} {path}: use a name that ends in {', '.join(endings)}")
        from phfcli.core.storage.files import check_file

        check_file(label, path)
        _check_not_read(label, path, option.opts)
        return path

    return check


_OWN_FILES = (".jsonl", ".json", ".yaml", ".safetensors", ".parquet")  # endings of what runs and evaluations hold


def _check_not_read(label: str, path: Path, names: Sequence[str]) -> None:
    """Raises UserError where the file that is to be written is also given to be read, or lies in a folder that is."""
    if not path.exists():
        return
    words, read = sys.argv[1:], list[str]()
    for before, word in zip(["", *words], words, strict=False):
        own = before in names or word.startswith(tuple(f"{name}={path}" for name in names)) or word == f"-o{path}"
        read += [] if own else word.rpartition("=")[2].split(",")
    for name in read:
        with suppress(OSError, ValueError):  # of words that are no paths
            other = Path(name)
            if name and other.exists() and path.samefile(other):
                raise UserError(f"{label} {path}: is read too, and would be replaced; name another file")
            within = name and other.is_dir() and path.resolve().is_relative_to(other.resolve())
            if within and path.suffix in _OWN_FILES:
                raise UserError(f"{label} {path}: is a file of {other}, which is read; name another file")


def _label(name: str, hint: Any) -> str:
    """The name of an option or argument as a user types it."""
    info = next(part for part in hint.__metadata__ if isinstance(part, OptionInfo | ArgumentInfo))
    written = [word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("--")]
    derived = name.upper() if isinstance(info, ArgumentInfo) else f"--{name.replace('_', '-')}"
    return str(written[0]) if written else derived


def completing(read: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for an option: of the names that `read` gives those that begin as what is typed.

    Of several names with commas the last one is completed.
    """

    def offer(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in read() if name.startswith(last)]

    return offer


def _settings() -> list[str]:
    from phfcli.core.config import EvalConfig, TrainConfig
    from phfcli.core.settings import leaves

    return [
        f"{key}="
        for key in dict.fromkeys(key for kind in (TrainConfig, EvalConfig) for key in leaves(kind().model_dump()))
    ]


_engines = completing(lambda: [*ENGINES, *names("engines")])


def benchmarks() -> list[str]:
    """The benchmarks that are known by name."""
    from phfcli.core.evaluation.benchmarks import OWN_NAMES

    return [*OWN_NAMES, *names("benchmarks")]


Configs = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        metavar="NAME|FILE",
        help="A shipped recipe or a YAML file; later ones win. Repeatable.",
        autocompletion=completing(recipes),
        rich_help_panel="Settings",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting by its dotted key, e.g. optim.lr=1e-5. Repeatable.",
        autocompletion=completing(_settings),
        rich_help_panel="Settings",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no logs.", rich_help_panel=OUTPUT)]
Plot = Annotated[
    Path | None,
    file_option(
        "Draw a picture; the name's ending is its format: .png, .svg or .pdf.",
        "--plot",
        endings=(".png", ".svg", ".pdf"),
    ),
]
Csv = Annotated[Path | None, file_option("Write every number as CSV.", "--csv")]
OutputDir = Annotated[
    str | None,
    Setting("output_dir"),
    typer.Option("--output-dir", metavar="DIR", help="Where the results go.", rich_help_panel=OUTPUT),
]
Model = Annotated[
    str | None,
    Setting("model"),
    typer.Option("--model", metavar="ID|DIR", help="Hub id, folder, or 'embedded' (default).", rich_help_panel=MODEL),
]
Base = Annotated[
    str | None,
    Setting("base"),
    typer.Option(
        "--base",
        metavar="ID|DIR",
        help="The model under an adapter, if not the one that the adapter names.",
        rich_help_panel=MODEL,
    ),
]
Data = Annotated[
    str | None,
    Setting("data"),
    typer.Option(
        "--data",
        metavar="ID|FILE",
        help="Problems with reference solutions: hub id, file, 'embedded'.",
        rich_help_panel=DATA,
    ),
]
Seed = Annotated[
    int | None,
    Setting("seed"),
    typer.Option("--seed", help="Seed of every random choice (0).", rich_help_panel=TRAINING),
]
Objective = Annotated[
    str | None,
    Setting("objective"),
    typer.Option(
        "--objective",
        metavar="NAME",
        help=", ".join(objectives()),
        autocompletion=completing(lambda: [*objectives(), *names("objectives")]),
        rich_help_panel=TRAINING,
    ),
]
Alpha = Annotated[
    float | None,
    Setting(KEYS["alpha"]),
    typer.Option("--alpha", help="Weight of the hidden-flow term (0.05).", rich_help_panel=TRAINING),
]
Teacher = Annotated[
    str | None,
    Setting(KEYS["teacher"]),
    typer.Option("--teacher", metavar="KIND", help=", ".join(TEACHERS), rich_help_panel=TRAINING),
]
RolloutEngine = Annotated[
    str | None,
    Setting(KEYS["engine"]),
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"Rollouts by: {', '.join(ENGINES)}.",
        autocompletion=_engines,
        rich_help_panel=TRAINING,
    ),
]
Grader = Annotated[
    str | None,
    Setting("grader"),
    typer.Option(
        "--grader",
        metavar="NAME|FILE.py:NAME",
        help=f"{', '.join(GRADERS)}, or a function of (gold, completion) in a file of yours.",
        rich_help_panel=EVALUATION,
    ),
]
SamplingEngine = Annotated[
    str | None,
    Setting("engine"),
    typer.Option(
        "--engine",
        metavar="NAME|URL",
        help=f"{', '.join(ENGINES)}, or http://HOST:PORT.",
        autocompletion=_engines,
        rich_help_panel=EVALUATION,
    ),
]
Steps = Annotated[
    int | None,
    Setting("steps"),
    typer.Option(
        "--steps",
        help="Train to this step (100). The learning rate falls over 30 epochs, or over these where they are more.",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    Setting("optim.lr"),
    typer.Option("--lr", "--learning-rate", help="The highest learning rate (5e-6).", rich_help_panel=TRAINING),
]
BatchSize = Annotated[
    int | None,
    Setting("batch_size"),
    typer.Option("--batch-size", help="Problems a step, of all processes (32).", rich_help_panel=TRAINING),
]
CheckpointEvery = Annotated[
    int | None,
    Setting("checkpoint_every"),
    typer.Option("--checkpoint-every", help="Steps between checkpoints (25).", rich_help_panel=OUTPUT),
]
Keep = Annotated[
    int | None,
    Setting("keep"),
    typer.Option("--keep", help="Keep only the newest N checkpoints (all).", metavar="N", rich_help_panel=OUTPUT),
]
TokensPerS = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=1e-9,
        help="With --dry-run: the tokens/s of an earlier run or evaluation, to predict the hours.",
        rich_help_panel=OUTPUT,
    ),
]
ReportTo = Annotated[
    str | None,
    Setting("report_to", names_of),
    typer.Option("--report-to", metavar="NAME[,...]", help=f"Trackers: {', '.join(TRACKERS)}.", rich_help_panel=OUTPUT),
]
EvalEvery = Annotated[
    int | None,
    Setting(KEYS["eval_every"]),
    typer.Option("--eval-every", metavar="K", help="Evaluate and save every K steps.", rich_help_panel=EVALUATION),
]
EvalBench = Annotated[
    str | None,
    Setting(KEYS["eval_bench"]),
    typer.Option(
        "--eval-bench",
        metavar="NAME|FILE",
        help="The benchmark of --eval-every: 4 samples of its first 64 problems.",
        autocompletion=completing(benchmarks),
        rich_help_panel=EVALUATION,
    ),
]
Patience = Annotated[
    int | None,
    Setting(KEYS["patience"]),
    typer.Option(
        "--patience",
        metavar="P",
        help="Stop after P evaluations without a better one.",
        rich_help_panel=EVALUATION,
    ),
]
