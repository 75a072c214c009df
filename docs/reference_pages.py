"""Sphinx extension: write the reference pages that follow from the code.

Before a build reads its sources, the extension writes `generated/commands.md` from the command line,
`generated/recipe-keys.md` from the recipe's models, `generated/record.md` from the record's JSON Schema,
`generated/data-sets.md` from the registry of data sets, and a page per task family from its README.

The pages do not exist on GitHub. The other pages link their sources, and the extension replaces these links.
"""

import ast
import inspect
import json
import os
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
FOLDER = "generated"

FAMILIES = ("slot", "translation", "structured")
"""Folders of `tasks/midalign` with a README."""

SOURCES = {
    "commands.md": "midalign/cli",
    "recipe-keys.md": "midalign/train/recipe.py",
    "record.md": "midalign/record.schema.json",
    "data-sets.md": "midalign/data/registry.py",
    **{f"{name}.md": f"tasks/midalign/{name}/README.md" for name in FAMILIES},
}
"""The file or folder of the repository from which a page is generated."""

COMMON = ("name", "base", "task", "supervised", "aligned", "align.pairs", "seeds", "updates")
"""Recipe keys that most recipes set."""

RUNNING = (
    *("output", "evaluate", "evaluation", "monitor", "report_to", "save_every", "allow_overlap"),
    *("max_batch_tokens", "recompute", "load_in_4bit", "packing", "arguments"),
)
"""Recipe keys that fit a run to a machine, watch it or score it."""

DEFAULTS = {"output": "`runs/NAME`"}
"""Defaults that `load_recipe` fills in, as Markdown."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages when a build begins, and link them from the pages that are read."""
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _link_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    pages: dict[str, Callable[[], str]] = {
        "commands.md": commands_page,
        "recipe-keys.md": recipe_page,
        "record.md": record_page,
        "data-sets.md": data_sets_page,
        **{f"{name}.md": partial(family_page, name) for name in FAMILIES},
    }
    for name, render in pages.items():
        path, text = folder / name, render()
        if not path.is_file() or path.read_text("utf-8") != text:  # an unchanged page is not read again
            path.write_text(text, "utf-8")


def _link_pages(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = with_generated_links(source[0], (ROOT / "docs" / name).parent)


def with_generated_links(text: str, folder: Path) -> str:
    """Return a page of a folder with links to generated pages in place of links to their sources."""
    pages = {ROOT / source: ROOT / "docs" / FOLDER / page for page, source in SOURCES.items()}

    def replace(link: re.Match[str]) -> str:
        page = pages.get(Path(os.path.normpath(folder / link[1])))
        return f"]({os.path.relpath(page, folder)}" if page else link[0]

    return re.sub(r"\]\((\.\./[^)#\s]+)", replace, text)


# --- Markdown


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(headings)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """Return text as a code span that fits into a table."""
    return f"`{text.replace('|', chr(92) + '|')}`"


def prose(text: str) -> str:
    """Return text in one line, with what Markdown would interpret escaped, except code spans."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        code(part[1:-1]) if part.startswith("`") else re.sub(r"([\\<>|*_\[\]{}$#])", r"\\\1", part)
        for part in parts
    )


# --- Commands


def commands_page() -> str:
    """Return the page of all commands, from the help of each."""
    from midalign.cli.app import app

    root = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        "Generated from the commands' own `--help`.\n",
        "`midalign-train RECIPE` and `midalign train RECIPE` are the same command. "
        "Exit status: 0 for success, 1 for an error that the message explains, 2 for wrong usage, "
        "130 after Ctrl-C.\n",
    ]
    for name, command in _leaves("midalign", root):
        parts.append(_command_section(name, command))
    return "\n".join(parts)


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, by full name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, below in command.commands.items():
        yield from _leaves(f"{name} {word}", below)


def _command_section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {name}\n", help_text(command.help or ""), f"```text\n{usage}\n```\n"]
    records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.params:
        record = None if parameter.hidden else parameter.get_help_record(context)
        if record:
            records[parameter.param_type_name].append(record)
    for kind, rows in records.items():
        if rows:
            parts.append(table([kind, "meaning"], [(code(what), prose(text)) for what, text in rows]))
    if command.epilog:
        parts.append(f"```bash\n{inspect.cleandoc(command.epilog)}\n```\n")
    return "\n".join(parts)


def help_text(text: str) -> str:
    r"""Return a help text in Markdown: a paragraph after `\b` keeps its lines."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{textwrap.dedent(paragraph.removeprefix(chr(8)).strip(chr(10)))}\n```\n")
        elif paragraph.strip():
            parts.append(f"{prose(paragraph)}\n")
    return "\n".join(parts)


# --- Recipe keys


def recipe_page() -> str:
    """Return the page of all recipe keys, from the models and the presets."""
    from midalign.train.recipe import Recipe

    keys = dict(_keys(Recipe))
    common = {name: keys.pop(name) for name in COMMON}
    running = {name: field for name, field in keys.items() if name.split(".")[0] in RUNNING}
    ablations = {name: field for name, field in keys.items() if name not in running}
    return "\n".join(
        [
            "# Recipe keys\n",
            "Generated from the models in `midalign/train/recipe.py`. Keys with a dot are nested: "
            "`align.weight` is the key `weight` below `align` in YAML, and `align.weight=0.3` on the command "
            "line. `default` and `paper` are the values of the two presets. A recipe chooses one of them by "
            "the key `preset`, and `default` applies without it. Unknown keys are rejected.\n",
            "## Common keys\n",
            _key_table(common),
            "## Keys of a run\n",
            "These keys fit a run to a machine, watch it, or evaluate its adapters.\n",
            _key_table(running),
            "## For ablations\n",
            "The presets set these keys. Change them to compare forms of the method.\n",
            _key_table(ablations),
        ]
    )


@dataclass(frozen=True)
class Key:
    """A recipe key, with the columns of the tables as Markdown."""

    name: str
    type: str
    default: str
    """Where a preset does not set the key."""
    meaning: str


def _keys(model: type[BaseModel], prefix: str = "", required: str = "required") -> Iterator[tuple[str, Key]]:
    """Yield the keys of a model and of the models below it."""
    meanings = field_meanings(model)
    for field, info in model.model_fields.items():
        name = f"{prefix}{field}"
        section = _section(info.annotation)
        if section is not None:
            optional = not info.is_required() and info.default is None
            yield from _keys(section, f"{name}.", f"required in {code(name)}" if optional else required)
            continue
        if field not in meanings:
            raise ValueError(f"{model.__name__}.{field} has no docstring below it, expected one for the docs")
        default = required if info.is_required() else code(_yaml(info.get_default()))
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        yield name, Key(name, described_type(annotation), DEFAULTS.get(name, default), meanings[field])


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a key that has keys below it, None for a value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _key_table(keys: dict[str, Key]) -> str:
    presets = [_preset(name) for name in ("default", "paper")]
    rows = [
        (
            code(key.name),
            key.type,
            *(code(_yaml(preset[name])) if name in preset else key.default for preset in presets),
            prose(key.meaning),
        )
        for name, key in keys.items()
    ]
    return table(("key", "type", "default", "paper", "meaning"), rows)


def _preset(name: str) -> dict[str, Any]:
    """Return a preset's values by dotted key."""
    text = (files("midalign") / "recipes" / "presets" / f"{name}.yaml").read_text("utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return dict(_flat(values))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _yaml(value: Any) -> str:
    """Return a value as a recipe writes it, in one line."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()


def described_type(annotation: Any) -> str:
    """Return a field's type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return described_type(arguments[0]) + _bounds(arguments[1:])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(described_type(one) for one in arguments))
    if origin is Literal:
        return " or ".join(code(_yaml(value)) for value in arguments)
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} {_plural(arguments[0])}"
    if origin is dict:
        return "mapping"
    names = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", Path: "path"}
    return "`null`" if annotation is type(None) else names.get(annotation, "any value")


def _plural(annotation: Any) -> str:
    """Return the type of a list's items in words."""
    name = described_type(annotation)
    noun, space, bounds = name.partition(" ")
    return f"{noun}s{space}{bounds}" if noun in ("text", "integer", "number") else name


def _bounds(metadata: Iterable[Any]) -> str:
    """Return the bounds of a number, such as ` > 0, ≤ 1`."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    constraints = [part for item in metadata for part in (*getattr(item, "metadata", ()), item)]
    found = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in constraints
        for name, sign in signs.items()
        if getattr(constraint, name, None) is not None
    ]
    return f" {prose(', '.join(found))}" if found else ""


def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings below a model's fields, by field, with `null` for `None`."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{model} is not a class")
    return {
        field.target.id: re.sub(r"\bNone\b", "null", below.value.value)
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


# --- Task families


def family_page(name: str) -> str:
    """Return the README of a task family, with links to the pages of the others."""
    text = (ROOT / "tasks" / "midalign" / name / "README.md").read_text("utf-8")
    return re.sub(r"\]\(\.\./(\w+)/README\.md", r"](\1.md", text)


# --- Data sets


def data_sets_page() -> str:
    """Return the page of the data sets, from their modules."""
    from midalign.data import DownloadedData
    from midalign.data.registry import DATA_SETS, data_set
    from midalign.languages import languages_of

    rows = []
    for name in DATA_SETS:
        data = data_set(name)
        about = (data.__doc__ or "").partition("\n")[0].rstrip(".")
        stored = f"{len(data.FILES.digests):,} files" if isinstance(data, DownloadedData) else "bundled"
        citation = re.sub(r"https://\S+", r"<\g<0>>", data.CITATION)
        rows.append((code(name), about, f"{len(languages_of(name))}", stored, data.LICENCE, citation))
    return (
        "# Data sets\n\n"
        "Generated from the registry of data sets, `midalign/data/registry.py`. Files are downloaded at "
        "first use and verified by digest. `midalign data list` shows which ones are in the cache, and "
        "`midalign data add NAME PATH` adds a local copy.\n\n"
        + table(("name", "content", "languages", "stored", "licence", "citation"), rows)
    )


# --- Record


def record_page() -> str:
    """Return the page of the record's parts, from its JSON Schema and the models' docstrings."""
    from midalign.record import Record

    schema = json.loads((files("midalign") / "record.schema.json").read_text("utf-8"))
    models = dict(_models(Record))
    definitions = {"Record": schema, **schema["$defs"]}
    definitions = {name: part for name, part in definitions.items() if "properties" in part}
    parts = [
        "# Records\n",
        "Generated from `midalign/record.schema.json`, the JSON Schema of a record. A record is one JSON "
        "file per evaluated model, `NAME.json`. Beside it, `NAME.items.jsonl.zst` holds the counts per item. "
        "Every score, interval and paired test follows from these two files.\n",
    ]
    for name in _in_order(definitions):
        meanings = field_meanings(models[name]) if name in models else {}
        parts.append(_definition_section(name, definitions[name], meanings))
    return "\n".join(parts)


def _models(
    model: type[BaseModel], above: frozenset[type[BaseModel]] = frozenset()
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a model and the models below it, by name. `above` has those that it is part of."""
    yield model.__name__, model
    for field in model.model_fields.values():
        for below in _types(field.annotation):
            if isinstance(below, type) and issubclass(below, BaseModel) and below not in above | {model}:
                yield from _models(below, above | {model})


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _in_order(definitions: dict[str, Any]) -> list[str]:
    """Return the names of definitions, each after the first one that refers to it."""
    found, waiting = [], ["Record"]
    while waiting:
        name = waiting.pop(0)
        if name in definitions and name not in found:
            found.append(name)
            text = json.dumps(definitions[name]["properties"])
            waiting += re.findall(r'"#/\$defs/(\w+)"', text)
    return found


def _definition_section(name: str, definition: dict[str, Any], meanings: dict[str, str]) -> str:
    required = definition.get("required", [])
    rows = [
        (code(key), _schema_type(value), "yes" if key in required else "no", prose(meanings.get(key, "")))
        for key, value in definition["properties"].items()
    ]
    heading = f"(record-{name.lower()})=\n## {name}\n"
    description = f"{prose(definition.get('description', ''))}\n"
    return "\n".join([heading, description, table(("key", "type", "required", "meaning"), rows)])


def _schema_type(schema: dict[str, Any]) -> str:
    """Return a JSON Schema's type in words, with links to other parts of the record."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any value" if name == "JsonValue" else f"[{name}](#record-{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema_type(one) for one in schema["anyOf"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        items = _schema_type(schema["items"])
        return f"list of {items}s" if items in ("string", "integer", "number") else f"list of {items}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_schema_type(values)}" if isinstance(values, dict) else "mapping"
    if schema.get("pattern") == "^[0-9a-f]{64}$":
        return "sha256"
    return schema.get("format") or schema.get("type") or "any value"
