"""Pages of the site that are made from the program: commands from Typer, settings from their models, recipes."""

import inspect
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from recipe_table import as_markdown
from typer.main import get_command

from phfcli.cli import app
from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.setting_notes import setting_notes
from phfcli.core.settings import leaves


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, as mkdocs asks for."""
    pages = {"commands.md": "\n".join(commands()), "settings.md": "\n".join(settings()), "recipes.md": as_markdown()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content + "\n"))
    return files


def commands() -> Iterator[str]:
    """Every command: what it does, its examples, its options."""
    yield "# Commands\n\nEach takes `--help`. Exit codes: 0 done, 1 a fault outside, 2 a mistake in the input, "
    yield "130 stopped by Ctrl-C, 143 stopped by SIGTERM. Results go to stdout, everything else to stderr.\n"
    yield from _of(get_command(app), "phf")


def _of(command: Any, name: str) -> Iterator[str]:
    for own, inner in sorted(getattr(command, "commands", {}).items()):
        if hasattr(inner, "commands"):
            yield from _of(inner, f"{name} {own}")
        else:
            yield from _command(inner, f"{name} {own}")


def _command(command: Any, name: str) -> Iterator[str]:
    yield f"## {name}\n"
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        plain = part.replace("\b\n", "")
        yield f"```text\n{plain}\n```\n" if plain != part else f"{plain}\n"
    yield "| | |\n|---|---|"
    for parameter in command.params:
        told = getattr(parameter, "help", None) or ""
        names = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.param_type_name == "option" else ""
        yield f"| {names or f'`{parameter.metavar or parameter.name}`'} | {_cell(told)} |"
    yield ""


def settings() -> Iterator[str]:
    """Every setting of a run and of an evaluation, with its default and what it means."""
    yield "# Settings\n\nIn a YAML file for `--config`, on the command line with `--set KEY=VALUE`, in Python with "
    yield "`config={KEY: VALUE}`. `phf config show RECIPE` says what a recipe makes of them.\n"
    for title, kind in (("A training run", TrainConfig), ("An evaluation", EvalConfig)):
        yield f"## {title}\n\n| setting | default | |\n|---|---|---|"
        notes = setting_notes(kind)
        for key, value in leaves(kind().model_dump(mode="json")).items():
            yield f"| `{key}` | `{value}` | {_cell(notes.get(key, ''))} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
