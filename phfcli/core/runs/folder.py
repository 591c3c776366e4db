"""The run directory: the names of its parts, its settings, and its manifest with versions, hashes and seeds."""

import datetime
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.extensions import Kind, code_of, short_name, trust_unchanged
from phfcli.core.retired import without_retired
from phfcli.core.settings import Source, read_yaml, resolve, write_yaml
from phfcli.core.storage.files import (
    check_folder,
    file_hash,
    folder_hash,
    is_temporary,
    remove_hidden,
    writing_alone,
)
from phfcli.core.storage.schemas import ManifestForm, StepForm, TrainerForm, read_form, read_forms
from phfcli.core.storage.seals import check_file_sums, check_sealed, write_sealed, write_sealed_lines
from phfcli.core.version import __version__, installed

if TYPE_CHECKING:
    import torch

    from phfcli.core.models.language_model import LanguageModel
    from phfcli.core.runs.problems import Curriculum

_STEP = re.compile(r"step-(\d{6,})")
VALIDATIONS = "evaluations.jsonl"  # the evaluations in the course of training
AHEAD = "ahead.safetensors"
_OF_TRAINING = ("optimizer.safetensors", "teacher.safetensors", AHEAD)  # the files of a checkpoint


def is_run(folder: Path) -> bool:
    """Whether a folder is the directory of a training run."""
    return (folder / "config.yaml").is_file()


def step_name(step: int) -> str:
    """The name of a step in files and folders: step-000100."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step of a name that `step_name` has made; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def evaluation_folder(run: Path, step: int | None, name: str) -> Path:
    """The folder of an evaluation: evals/step-000100/NAME of a checkpoint, evals/NAME of a model without steps."""
    return run / "evals" / name if step is None else run / "evals" / step_name(step) / name


def evaluation_files(run: Path, name: str) -> list[Path]:
    """The files of that name in all evaluations of a run, in the present layout and in older ones."""
    return sorted([*run.glob(f"evals/*/{name}"), *run.glob(f"evals/step-*/*/{name}")])


def run_name(evaluation: Path) -> str | None:
    """The name of a run or an evaluated model in every table, picture and page: the name of its folder.

    Args:
        evaluation: the folder of one of its evaluations.

    Returns:
        None for an evaluation outside of a run's folder.
    """
    run = run_of_evaluation(evaluation)
    return None if run == evaluation else run.resolve().name


def run_of_evaluation(folder: Path) -> Path:
    """The run that an evaluation's folder belongs to; the folder itself if it lies outside of a run."""
    evaluations = folder.parents[1] if step_of(folder.parent.name) is not None else folder.parent
    return evaluations.parent if evaluations.name == "evals" else folder


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a run, oldest first."""
    found = []
    for path in (run / "checkpoints").glob("step-*"):
        step = step_of(path.name)
        if step is not None and (path / "trainer.json").is_file():
            found.append((step, path))
    return sorted(found)


def check_sums(folder: Path, training: bool = True) -> None:
    """Compares a checkpoint's files with their checksums. Older versions have none, or those of the weights only.

    training: also the files that only a resumed training reads.

    Raises:
        UserError: names the file that is missing or whose content has changed.
    """
    if not (folder / "trainer.json").is_file():
        return
    state = read_form(folder / "trainer.json", TrainerForm)
    named, sums = step_of(folder.resolve().name), state.get("sha256", {})
    if named not in (None, state["step"]):
        raise UserError(f"{folder}: its trainer.json is of step {state['step']}; give the folder its own name back")
    check_file_sums(
        folder, {name: own for name, own in sums.items() if training or Path(name).name not in _OF_TRAINING}
    )
    card = folder / "README.md"  # which each evaluation writes anew
    if training and card.is_file():
        check_sealed(card)


def model_identity(name: str, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Identifies a model beyond its name: by its hub commit, or by a hash of its local files.

    known: from a manifest; where its files have the same sizes and times, its hash is taken.
    """
    from phfcli.core.models.description import locate, revision

    where = Path(locate(name))
    if where.is_dir() and known and "sha256" in known and known.get("files") == _stamps(where):
        return {"name": name, "sha256": known["sha256"]}
    if where.is_dir():
        return {"name": name, "sha256": folder_hash(where)}
    return {"name": name, "revision": revision(name)}


def _stamped_identity(name: str) -> dict[str, Any]:
    """The identity of a model with size and time of its files: where these are the same, nothing is hashed again."""
    from phfcli.core.models.description import locate

    where = Path(locate(name))
    return model_identity(name) | ({"files": _stamps(where)} if where.is_dir() else {})


def _stamps(folder: Path) -> dict[str, list[int]]:
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def environment(device: "torch.device") -> dict[str, Any]:
    """The versions and the hardware on which results may depend."""
    import torch

    from phfcli.core.models.device import device_name

    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "math-verify", "vllm")
    found = {name: known for name in packages if (known := installed(name))}
    return {
        "versions": {"phfcli": __version__, "python": platform.python_version()} | found,
        "git": _git_revision(),
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def now() -> str:
    """The present time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git_revision() -> str | None:
    """The git revision of phfcli, if it runs from a checkout and git is installed; else None."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


# settings that a resumed run may change: they do not change what a training step computes
_FREE_ON_RESUME = (
    *("steps", "checkpoint_every", "keep", "output_dir", "report_to"),
    *("sharding", "offload", "vllm", "http"),
)
# settings without which the checkpoints of a run cannot be loaded
_NEEDED_BY_CHECKPOINTS = ("model", "tuning", "lora")
_WRITTEN_BEFORE_CONFIG = {"lock", "manifest.json"}


def default_folder(config: TrainConfig, free: bool = False) -> Path:
    """runs/OBJECTIVE-MODEL-seedN. With `free` a name that is taken gets the first free number: NAME-2, NAME-3."""
    name = f"{short_name(config.objective)}-{Path(config.model).name.lower()}-seed{config.seed}"
    folders = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(folder for folder in folders if not free or not folder.exists())


def claim_folder(folder: Path) -> None:
    """Raises UserError if a new run would write into a folder that is not empty.

    Files that a start leaves behind when it stops before it writes config.yaml do not count.
    """
    if folder.exists() and not (
        folder.is_dir() and all(p.name in _WRITTEN_BEFORE_CONFIG or is_temporary(p) for p in folder.iterdir())
    ):
        fix = "resume the run, or choose another output_dir" if is_run(folder) else "choose another output_dir"
        raise UserError(f"{folder} is not empty; {fix}")


@contextmanager
def training_alone(folder: Path) -> Iterator[None]:
    """Holds the run's lock during the context, so that only one training process at a time writes into the run.

    If the folder is no run at the end, because the start was refused, the lock and the folders made for it are removed.

    Raises:
        UserError: another process trains in the folder, or the file system has no locks.
    """
    check_folder("output_dir", folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    lock_is_new = not lock.exists()
    busy = f"{folder}: another `phf train` is at work in this run; wait for it to end, or choose another output_dir"
    try:
        with writing_alone(lock, busy):
            yield
    finally:
        if lock_is_new and not is_run(folder):
            lock.unlink(missing_ok=True)
            for path in made:
                with suppress(OSError):
                    path.rmdir()


def saved_config(folder: Path) -> Source:
    """The settings of a run as a source for a resumed run; settings of an earlier version are translated.

    Raises:
        UserError: there is no config.yaml, it sets a setting that was removed, or it is not what was written.
    """
    file = folder / "config.yaml"
    tree = without_retired(read_yaml(file), str(file))
    try:
        check_sealed(file)
    except UserError as error:
        raise UserError(f"{error}; change settings by options, or remove its line '# seal' to keep the edit") from None
    return Source(str(file), tree | _anchored_model(folder, tree))


def _anchored_model(folder: Path, tree: Mapping[str, Any]) -> dict[str, str]:
    """The model's path in a run of version 0.2, which may be relative to where it was started: checkpoints have it."""
    for file in sorted(folder.glob("checkpoints/step-*/trainer.json"), reverse=True):
        with suppress(UserError):  # damaged, which is told where the checkpoint is read
            name = str(read_form(file, TrainerForm)["model"])
            if Path(name).is_absolute() and Path(name).name == Path(str(tree.get("model"))).name:
                return {"model": name}
    return {}


def recorded_config(folder: Path) -> TrainConfig:
    """The settings that a run was made with. Plugins that the run used need not be installed."""
    return resolve(TrainConfig, [saved_config(folder)], recorded=True)


def check_resumable(folder: Path, config: TrainConfig, force: bool = False) -> list[str]:
    """Sentences on the settings in which `config` differs from the run in the folder.

    Raises:
        UserError: names the setting that differs, unless `force`; with `force` only for a setting without which the
            run's checkpoints cannot be loaded.
    """
    before, after = _comparable(recorded_config(folder)), _comparable(config)
    changed = [key for key, value in before.items() if key not in _FREE_ON_RESUME and after[key] != value]
    sentences = [f"{key} was {before[key]!r} in {folder} and is now {after[key]!r}" for key in changed]
    for key, words in zip(changed, sentences, strict=True):
        if key in _NEEDED_BY_CHECKPOINTS:
            raise UserError(f"resume: {words}; its checkpoints do not fit this setting: choose another output_dir")
        if not force:
            raise UserError(f"resume: {words}; a resumed run keeps its settings, unless force is set")
    return sentences


def note_settings(folder: Path, config: TrainConfig) -> None:
    """Overwrites config.yaml with the settings of a resumed run that differ from those it began with."""
    write_sealed(folder / "config.yaml", write_yaml(config))


def _comparable(config: TrainConfig) -> dict[str, Any]:
    """The settings as a tree in which a server's address and the patience, which may change, are made equal."""
    tree = config.model_dump()
    if "://" in tree["rollout"]["engine"]:
        tree["rollout"]["engine"] = "http"
    tree["evaluation"]["patience"] = None
    return tree


def start_run(
    folder: Path,
    config: TrainConfig,
    model: "LanguageModel",
    curriculum: "Curriculum",
    skipped: int,
    processes: int,
    divergence: str | None,
    bench_sha256: str | None,
    origins: Mapping[str, str],
) -> None:
    """Writes manifest.json and config.yaml of a new run; config.yaml is last, because it makes the folder a run.

    Args:
        divergence: the kind of its metric `divergence`.
        bench_sha256: of the benchmark that is evaluated in the course of training.
        origins: which recipe, file or option gave each setting that is not a default.
    """
    data = {"name": config.data, "problems": len(curriculum.problems), "skipped": skipped, "sha256": curriculum.sha256}
    data |= {"bad_rows": len(curriculum.bad), "shortened": curriculum.shortened}
    write_sealed(
        folder / "manifest.json",
        {
            "created": now(),
            "command": sys.argv,
            "seed": config.seed,
            "origins": dict(origins),
            "model": {**_stamped_identity(config.model), "parameters": model.causal.num_parameters()},
            "data": data,
            "processes": processes,
            "attention": model.attention,
            **({} if model.adapter is None else {"adapter": model.adapter.as_json()}),
            **({} if divergence is None else {"divergence": divergence}),
            **({} if bench_sha256 is None else {"bench": {"name": config.evaluation.bench, "sha256": bench_sha256}}),
            **_other_inputs(config),
            **environment(model.device),
        },
    )
    write_sealed(folder / "config.yaml", write_yaml(config))


def own_code(config: TrainConfig) -> dict[str, str]:
    """The hash of the code of each plugin that a run uses."""
    return code_of(_plugins(config))


def _plugins(config: TrainConfig) -> list[tuple[Kind, str]]:
    """The kind and the name of what may be a plugin."""
    named: list[tuple[Kind, str]] = [("objectives", config.objective), ("teachers", config.teacher.kind)]
    named += [("engines", config.rollout.engine), ("graders", config.grader)]
    return [*named, ("benchmarks", config.evaluation.bench or "")]


def trust_own_code(folder: Path) -> None:
    """Lets a run that goes on run the code in files that it began with, where these have not changed."""
    codes = whole_manifest(folder).get("code", {})
    if codes:
        trust_unchanged(_plugins(recorded_config(folder)), codes, folder)


def _other_inputs(config: TrainConfig) -> dict[str, Any]:
    """The identity of what a run reads beside its model and its data: teacher, bridge, chat template, own code."""
    identity: dict[str, Any] = {"code": code} if (code := own_code(config)) else {}
    if config.teacher.model is not None:
        identity["teacher"] = _stamped_identity(config.teacher.model)
    for name, file in (("bridge", config.oprd.bridge), ("chat_template", config.prompt.chat_template)):
        if file is not None:
            identity[name] = {"name": file, "sha256": file_hash(Path(file))}
    return identity


def changed_inputs(manifest: Mapping[str, Any], config: TrainConfig, rows: Mapping[str, str | None]) -> list[str]:
    """Sentences on what the run reads that has other contents than when it began.

    What a manifest of an earlier version does not record is not compared.

    rows: the hashes of its rows now, of "data" and of "bench"; None where it reads none.
    """
    changed = []
    models = {"model": config.model, "teacher.model": config.teacher.model}
    for setting, name in models.items():
        before = manifest.get(setting.partition(".")[0], {})
        if name is not None and not _same_model(before, name):
            changed.append(f"{setting}: the weights of {name} are not those that the run began with")
    for setting, name in (("data", config.data), ("evaluation.bench", config.evaluation.bench)):
        now = rows[setting.rpartition(".")[2]]
        if now is not None and manifest.get(setting.rpartition(".")[2], {}).get("sha256", now) != now:
            changed.append(f"{setting}: the problems of {name} are not those that the run began with")
    for setting, file in (("oprd.bridge", config.oprd.bridge), ("prompt.chat_template", config.prompt.chat_template)):
        before = manifest.get(setting.rpartition(".")[2], {})
        if file is not None and "sha256" in before and before["sha256"] != file_hash(Path(file)):
            changed.append(f"{setting}: {file} is not the file that the run began with")
    code = own_code(config)
    for plugin, sha256 in manifest.get("code", {}).items():
        if code.get(plugin, sha256) != sha256:
            changed.append(f"{plugin}: its code is not that which the run began with")
    return changed


def _same_model(before: Mapping[str, Any], name: str) -> bool:
    present = model_identity(name, before)
    return all(before[key] == present[key] for key in ("sha256", "revision") if key in before and key in present)


def whole_manifest(folder: Path) -> dict[str, Any]:
    """The run's manifest. A damaged one is renamed and replaced, because a run can be resumed without it."""
    path = folder / "manifest.json"
    try:
        return read_form(path, ManifestForm)
    except UserError as error:
        if path.exists():
            path.replace(folder / "damaged-manifest.json")
        config = recorded_config(folder)
        return {"created": now(), "model": model_identity(config.model), "replaces": str(error)}


def continue_run(folder: Path, step: int, manifest: dict[str, Any], forced: Sequence[str] = ()) -> list[str]:
    """Records the resumption in the run's manifest, and removes incomplete files and all metrics after the checkpoint.

    forced: what is not as it was when the run began, a sentence each.

    Returns:
        A sentence on each damaged last line that is removed too.

    Raises:
        UserError: for any other damage, and for metrics that end before the checkpoint.
    """
    for part in ("checkpoints", "flows", "rollouts"):
        remove_hidden(folder / part)
    kept, dropped = {}, []
    for name in ("metrics.jsonl", VALIDATIONS, "alarms.jsonl"):
        path = folder / name
        try:
            lines = read_forms(path, StepForm)
        except UserError as error:
            lines = read_forms(path, StepForm, but_last=True)
            if name == "metrics.jsonl" and (lines[-1]["step"] if lines else 0) < step:
                raise
            dropped.append(f"{error}; this last line is dropped")
        if lines or path.exists():
            kept[path] = [line for line in lines if line["step"] <= step]
    manifest.setdefault("resumed", []).append(
        {"step": step, "time": now(), "command": sys.argv, **({"forced": list(forced)} if forced else {})}
    )
    write_sealed(folder / "manifest.json", manifest)
    for path, lines in kept.items():
        write_sealed_lines(path, lines)
    return dropped
