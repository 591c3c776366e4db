"""Pages of the site that are made from the program: commands from Typer, settings from their models, recipes."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from recipe_table import as_markdown
from setting_notes import setting_notes
from typer.main import get_command

from phfcli.cli import app
from phfcli.commands.options import Setting
from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import as_yaml
from phfcli.core.settings import leaves, read_yaml
from phfcli.core.shipped_files import recipes

_WHOLE = {name: read_yaml(path) for name, path in recipes().items() if name.startswith("qwen3") or name == "embedded"}


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
    for own, inner in getattr(command, "commands", {}).items():  # in the order of use, as --help has them
        if hasattr(inner, "commands"):
            yield from _of(inner, f"{name} {own}")
        else:
            yield from _command(inner, f"{name} {own}")


def _command(command: Any, name: str) -> Iterator[str]:
    yield f"## {name}\n"
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        plain = part.replace("\b\n", "")
        yield f"```text\n{plain}\n```\n" if plain != part else f"{plain}\n"
    yield "| | | default |\n|---|---|---|"
    defaults = _setting_defaults(command, EvalConfig if name == "phf eval" else TrainConfig)
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        told = getattr(parameter, "help", None) or ""
        names = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.param_type_name == "option" else ""
        default = defaults.get(parameter.name, parameter.default)
        told_by_itself = default is False or not isinstance(default, str | int | float | list) or default in ("", [])
        shown = "" if told_by_itself else f"`{as_yaml(default)}`"
        yield f"| {names or f'`{parameter.metavar or parameter.name}`'} | {_cell(told)} | {_cell(shown)} |"
    yield ""


def _setting_defaults(command: Any, kind: type[TrainConfig | EvalConfig]) -> dict[str, Any]:
    """The defaults of the options that give a setting, by the name of the argument."""
    values = leaves(kind().model_dump(mode="json"))
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    keys = {name: each.key for name, hint in hints.items() for each in get_args(hint) if isinstance(each, Setting)}
    return {name: values[key] for name, key in keys.items() if key in values}


def settings() -> Iterator[str]:
    """Every setting of a run and of an evaluation: what it takes, its default, what recipes set, what it means."""
    yield "# Settings\n\nIn a YAML file for `--config`, on the command line with `--set KEY=VALUE`, in Python with "
    yield "`config={KEY: VALUE}`. `phf config show RECIPE` says what a recipe makes of them.\n"
    for title, kind in (("A training run", TrainConfig), ("An evaluation", EvalConfig)):
        yield f"## {title}\n\n| setting | takes | default | recipes | |\n|---|---|---|---|---|"
        notes, schema = setting_notes(kind), kind.model_json_schema()
        for key, value in leaves(kind().model_dump(mode="json")).items():
            others = _recipe_values(key, value) if kind is TrainConfig else ""
            cells = (_takes(_schema_of(schema, key), schema), f"`{as_yaml(value)}`", others, notes.get(key, ""))
            yield f"| `{key}` | {' | '.join(map(_cell, cells))} |"
        yield ""


def _recipe_values(key: str, default: object) -> str:
    """What the recipes of whole models set it to, where that is not the default."""
    named: dict[str, list[str]] = {}
    for name, tree in _WHOLE.items():
        if (value := leaves(tree).get(key, default)) != default:
            named.setdefault(as_yaml(value), []).append(name)
    return "; ".join(f"`{value}` in {', '.join(names)}" for value, names in named.items())


def _schema_of(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """The JSON schema of a setting by its dotted key."""
    part = schema
    for name in key.split("."):
        part = _resolved(part, schema)["properties"][name]
    return part


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return found


def _takes(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    part = _resolved(part, schema)
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_takes(each, schema) for each in part["anyOf"]))
    if "enum" in part or "const" in part:
        return ", ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        return f"list of {_takes(part['items'], schema)}" if part.get("items") else "list"
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
    }
    limits = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    told = [f"{word} {part[limit]:g}" for limit, word in limits.items() if limit in part]
    return " ".join([words.get(part.get("type", ""), "mapping"), *told])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
