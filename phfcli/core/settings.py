"""Builds one validated config from recipes, files, pairs and arguments; errors name the source and the key."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from phfcli.core.config import EvalConfig, Section, TrainConfig, is_line
from phfcli.core.errors import MissingFileError, UserError, first_line, masked, nearest
from phfcli.core.extensions import RECORDED, trust
from phfcli.core.retired import LAST_VERSION, RETIRED
from phfcli.core.shipped_files import EMBEDDED, find_recipe, recipes
from phfcli.core.storage.files import read_text

Config = TypeVar("Config", bound=Section)
Tree = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Some settings and where they come from, as an error would name it; of a recipe also its name."""

    label: str
    tree: Tree
    recipe: str = ""


class UnknownSettingError(UserError):
    """A key that is no setting, or keys under one that is no section: `keys`, given by the source `where`."""

    def __init__(self, where: str, keys: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.where, self.keys = where, keys


def resolve(kind: type[Config], sources: Iterable[Source], *, recorded: bool = False) -> Config:
    """Merges the sources, where later ones win, and validates the result.

    recorded: they are only read back, and may name an objective, say, that a program had registered.

    Raises:
        UserError: one line on the first key that is unknown or whose value is impossible.
    """
    given = list(sources)
    origin = origins(given)
    for source in given:
        for key, value in leaves(source.tree).items():
            if isinstance(value, str) and "\0" in value:  # no path and no prompt may hold one
                raise UserError(f"{source.label}: {key}: holds a NUL character")
    try:
        return kind.model_validate(merged(source.tree for source in given), context=RECORDED if recorded else None)
    except ValidationError as error:
        # a key that is unknown is told first: it may be the one that another error misses, spelt otherwise
        found = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        raise _explain(kind, found[0], origin) from None


def merged(trees: Iterable[Mapping[str, Any]]) -> Tree:
    """One tree of settings out of several, where later ones win."""
    whole: Tree = {}
    for tree in trees:
        _merge(whole, tree)
    return whole


def origins(sources: Iterable[Source]) -> dict[str, str]:
    """Of each dotted key that is given, which source gave it last."""
    return {key: source.label for source in sources for key in leaves(source.tree)}


def train_origins(sources: list[Source]) -> dict[str, str]:
    """`origins` of a training run, whose model and objective bring recipes."""
    return origins(_with_recipes(sources))


def recipe_leaves(model: str, objective: str) -> dict[str, tuple[Any, str]]:
    """Each dotted key that the recipes of a model and an objective set: its value, and which recipe sets it."""
    chosen = [Source("", {"model": model, "objective": objective})]
    beneath = [source for source in _with_recipes(chosen) if source.label]
    values = leaves(resolve_train(chosen).model_dump(mode="json"))
    return {key: (values[key], source.label) for source in beneath for key in leaves(source.tree)}


def not_recommended(config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The settings of the divergence that the recipe `recommended` has otherwise: its value and the config's."""
    advised = leaves({"divergence": _shipped_recipe(recipes()["recommended"])["divergence"]})
    own = leaves(config.model_dump(mode="json"))
    return {key: (value, own[key]) for key, value in advised.items() if own[key] != value}


def resolve_train(sources: list[Source]) -> TrainConfig:
    """Like `resolve`, starting from the shipped recipes of the chosen model and objective where there are any.

    After each shipped recipe NAME lies MODEL-NAME, if there is one: what NAME has to be for the model of recipe MODEL.
    """
    return resolve(TrainConfig, _with_recipes(sources))


def file_sources(names: Iterable[str], option: str = "") -> list[Source]:
    """Settings from files, each a shipped recipe's name or a path; `option` is what the user typed before the name."""
    sources = [Source(f"{option} {name}".lstrip(), read_yaml(find_recipe(name)), name) for name in names]
    for source in sources:
        if source.recipe not in recipes():
            trust(leaves(source.tree).values())
    return sources


def set_sources(pairs: Iterable[str], option: str = "") -> list[Source]:
    """Settings from KEY=VALUE pairs: dotted keys, values as YAML, or as plain text for a setting that holds text.

    option: what the user typed before the pair, for errors and for the record of where a value comes from.
    """
    sources = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        label = f"{option} {key}".lstrip()
        if not (key and equals):
            raise UserError(f"{label}: expected KEY=VALUE, such as optim.lr=1e-5")
        sources.append(option_source(label, key, _set_value(key, text, label)))
    return sources


def _set_value(key: str, text: str, label: str) -> Any:
    """What is typed for a setting. A template or a name may look like other YAML: "Solve this: {problem}" is text."""
    if not _is_text(key):
        return parse_yaml(text, label)
    try:
        value = parse_yaml(text, label)
    except UserError:
        return text
    return value if value is None or isinstance(value, str) else text


def _is_text(key: str) -> bool:
    """Whether a dotted key is a setting that holds text, or none."""
    *sections, name = key.split(".")
    fields = (_fields(kind, sections).get(name) for kind in (TrainConfig, EvalConfig))
    return any(field is not None and str in map(_plain, _members(field.annotation)) for field in fields)


def _fields(kind: type[BaseModel], sections: Iterable[str]) -> Mapping[str, FieldInfo]:
    """The settings of a section of the tree; none where it has no such section."""
    inside: Any = kind
    for name in sections:
        inside = _inside(inside, name)
    fields: Mapping[str, FieldInfo] = inside.model_fields if _is_section(inside) else {}
    return fields


def _inside(kind: Any, name: str) -> Any:
    """What stands under a name: of a section the type of its field, of a mapping that of its values, else None."""
    if _is_section(kind):
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
    else:
        annotation = get_args(kind)[1] if get_origin(kind) is dict else None
    kinds = map(_plain, _members(annotation))
    return next((own for own in kinds if _is_section(own) or get_origin(own) is dict), None)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone is one of its own."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _plain(annotation: Any) -> Any:
    """An annotated type without its notes."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def option_source(label: str, key: str, value: Any) -> Source:
    """A dotted key with its value, given under the name `label`: ("alpha", "flow.alpha", 0.1)."""
    trust([value])
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return Source(label, tree)


def _with_recipes(sources: list[Source]) -> list[Source]:
    """The sources over their model's and objective's recipes, each recipe under what the model needs of it."""
    shipped = {name: _shipped_recipe(path) for name, path in recipes().items()}
    model = _last(sources, "model") or EMBEDDED
    own = next((name for name, tree in shipped.items() if tree.get("model") == model), "")
    objective = _last(sources, "objective") or shipped.get(own, {}).get("objective")
    beneath = [Source(f"recipe {name}", shipped[name], name) for name in (own, f"{objective}") if name in shipped]
    every = []
    for source in [*beneath, *sources]:
        name = f"{own}-{source.recipe}"
        every += [source, *([Source(f"recipe {name}", shipped[name])] if name in shipped else [])]
    return every


@cache
def _shipped_recipe(path: Path) -> Tree:
    """The settings of a shipped recipe; the file is parsed once per process, and the tree is never changed."""
    return read_yaml(path)


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds a mapping. Raises UserError for anything else."""
    try:
        text = read_text(path)
    except MissingFileError as error:
        raise UserError(f"{error}{_beside(path)}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values, such as 'steps: 100'")
    return tree


def _beside(path: Path) -> str:
    """A hint with the YAML file of its folder that has the nearest name, if there is one."""
    names = [other.name for other in path.parent.glob("*.yaml")]
    return f"; {nearest(path.name, names)}" if names else ""


def write_yaml(config: Section) -> str:
    """The resolved settings as YAML; reading it back gives the same config."""
    return dump_yaml(config.model_dump(mode="json"))


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """A tree as YAML, in its own order."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _last(sources: list[Source], key: str) -> Any:
    """The value that the last of the sources gives a key, if any does."""
    return next((source.tree[key] for source in reversed(sources) if key in source.tree), None)


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that reads no aliases (a small file of them can be of any size), and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:index]:  # YAML would keep the last one alone
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, label: str) -> Any:
    """What YAML says, plain values only. Raises UserError, which begins with the label, for text that is none."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{label}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except RecursionError:
        raise UserError(f"{label}: not valid YAML: it is nested too deeply") from None
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise UserError(f"{label}: not valid YAML: {first_line(error)}") from None


def _merge(into: Tree, tree: Mapping[str, Any]) -> None:
    """Adds the values of a tree to `into`; mappings are copied, since several merges share a recipe's tree.

    A line over steps is a value: a later one takes its place as a whole.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and not is_line(value):
            section = into[key] = into[key] if isinstance(into.get(key), dict) else {}
            _merge(section, value)
        else:
            into[key] = value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree as one level: each value by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        by_kind = f"{prefix}{key}" == "divergence.clip"  # which may be given by kind
        inner = isinstance(value, Mapping) and value and not by_kind and not is_line(value)
        flat |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _without_secrets(value: Any) -> Any:
    return masked(value) if isinstance(value, str) else value


def _explain(kind: type[BaseModel], error: ErrorDetails, origin: Mapping[str, str]) -> UserError:
    names = [str(part) for part in error["loc"]]
    path, given = ".".join(names), reprlib.repr(_without_secrets(error["input"]))
    related = [label for leaf, label in origin.items() if f"{leaf}.".startswith(f"{path}.") or path.startswith(leaf)]
    labels = [*dict.fromkeys(origin.values())]
    source = related[-1] if related else labels[0] if len(labels) == 1 else "settings"
    where = source if source.lstrip("-").split(" ")[-1] == path else f"{source}: {path}".removesuffix(": ")
    keys = [*(leaf for leaf in origin if f"{leaf}.".startswith(f"{path}.")), path]
    if error["type"] == "extra_forbidden" and any(key in RETIRED for key in keys):
        return UserError(f"{where}: was removed after version {LAST_VERSION}; leave it out")
    if error["type"] == "extra_forbidden":
        hint = nearest(names[-1], list(_fields(kind, names[:-1])))
        return UnknownSettingError(where, keys, f"{where}: unknown key; {hint}")
    if error["type"] == "literal_error":
        options = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return UserError(f"{where}: {given} is unknown; {nearest(str(error['input']), options)}")
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    told = not names or (error["type"] == "value_error" and given in message)
    text = f"{where}: {message}" if told else f"{where}: {message}, got {given}"
    return UnknownSettingError(where, keys, text) if isinstance(error["input"], Mapping) else UserError(text)
