"""phf config."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phfcli.commands.options import AsJson, Configs, Sets
from phfcli.commands.output import print_json, print_table, result_console
from phfcli.core.errors import as_yaml

config_app = typer.Typer(rich_markup_mode="rich", no_args_is_help=True, help="Settings: show, compare, their schema.")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME|FILE]...", help="Recipes or YAML files, as with --config.")
]


@config_app.callback()
def config() -> None:
    """Look at settings without running anything."""


@config_app.command("show")
def show(names: Names = None, config: Configs = None, set_: Sets = None, json_: AsJson = False) -> None:
    """Print every setting of a training run as it resolves, each with where its value comes from.

    \b
    Examples:
      phf config show  # the embedded default
      phf config show qwen3-4b opsd --set optim.lr=1e-5
    """
    from phfcli.core.settings import file_sources, leaves, resolve_train, set_sources, train_origins

    sources = [*file_sources([*(names or []), *(config or [])], "--config"), *set_sources(set_ or [], "--set")]
    values, origin = leaves(resolve_train(sources).model_dump(mode="json")), train_origins(sources)
    rows = {key: {"value": value, "from": origin.get(key, "default")} for key, value in values.items()}
    if json_:
        print_json(rows)
        return
    cells = [(key, as_yaml(row["value"]), row["from"]) for key, row in rows.items()]
    columns = ("setting", "value", "from")
    print_table(result_console(), "", columns, cells, text=columns)


@config_app.command("diff")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A recipe, a YAML file or a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    json_: AsJson = False,
) -> None:
    """Print the settings in which two recipes, files or runs differ.

    \b
    Examples:
      phf config diff qwen3-4b qwen3-8b
      phf config diff qwen3-4b runs/phf-qwen3-4b-seed0
    """
    one, other = _resolved(a), _resolved(b)
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    if json_:
        print_json({key: [one.get(key), other.get(key)] for key in keys})
    elif keys:
        cells = [(key, as_yaml(one.get(key)), as_yaml(other.get(key))) for key in keys]
        columns = ("setting", a, b)
        print_table(result_console(), "", columns, cells, text=columns)
    else:
        result_console().print("the same settings")


@config_app.command("schema")
def schema(
    eval_: Annotated[
        bool, typer.Option("--eval", help="The schema of an evaluation's settings, not of a run's.")
    ] = False,
) -> None:
    """Print the JSON schema of the settings, with which editors check and complete YAML files.

    \b
    Example:
      phf config schema > recipes/schema.json
    """
    from phfcli.core.config import EvalConfig, TrainConfig

    print_json((EvalConfig if eval_ else TrainConfig).model_json_schema())


def _resolved(name: str) -> dict[str, Any]:
    from phfcli.core.runs.folder import is_run, saved_config
    from phfcli.core.settings import file_sources, leaves, resolve_train

    sources = [saved_config(Path(name))] if is_run(Path(name)) else file_sources([name])
    return leaves(resolve_train(sources).model_dump(mode="json"))
