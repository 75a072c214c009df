"""Recipe values in an adapter's manifest, and their differences from another recipe."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from midalign.escaping import plain_text
from midalign.files import without_folders
from midalign.train.recipe import Align, MonitorSettings, Recipe

LONGEST = 60
"""Longest value in a message, in characters."""

UNSET = "not set"
"""Shown for a key that only the other recipe has."""


def arm_settings(recipe: Recipe, arm: str) -> dict[str, JsonValue]:
    """Return the keys of a recipe that determine an arm's weights, with their values, as JSON.

    Defaults are included. Paths have no folders of this machine.
    """
    align = recipe.align_of(arm)
    settings = recipe.model_dump(mode="json", exclude=recipe.keys_beside_weights)
    settings["base"] = recipe.base_name
    settings["task"] = without_folders(recipe.task)
    settings["arguments"] = _portable(settings["arguments"])
    settings["align"] = None
    if align is not None:
        settings["align"] = {**align.model_dump(mode="json"), "pairs": without_folders(align.pairs)}
    elif recipe.stops_early:  # the measure may depend on the held-out pairs and the layer
        measured = recipe.align.model_dump(mode="json", include={"pairs", "held_out", "layer"})
        settings["held_out"] = {**measured, "pairs": without_folders(recipe.align.pairs)}
    return settings


def _portable(value: Any) -> Any:
    """Return a JSON value whose texts have no folders of this machine."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) else value


def setting_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys of two settings that differ, with both values, such as `align.weight 1.0, now 0.3`.

    A key missing from `before` counts as its default. A mapping is compared key by key with another mapping,
    and as a whole with any other value.
    """
    return list(_differences(before, now, "", _defaults()))


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[str]:
    for key in dict.fromkeys([*before, *now]):
        name = f"{prefix}{key}"
        was, value = before.get(key, defaults.get(name, UNSET)), now.get(key, UNSET)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            yield from _differences(was, value, f"{name}.", defaults)
        elif was != value:
            yield f"{name} {_short(was)}, now {_short(value)}"


def _defaults() -> dict[str, Any]:
    """Return the defaults of optional keys by dotted key, as JSON."""
    sections: dict[str, type[BaseModel]] = {"": Recipe, "align.": Align, "monitor.": MonitorSettings}
    return {
        f"{prefix}{name}": to_jsonable_python(field.default)
        for prefix, section in sections.items()
        for name, field in section.model_fields.items()
        if not field.is_required()
    }


def _short(value: Any) -> str:
    """Return a value for a message: null as YAML spells it, long texts cut."""
    return "null" if value is None else plain_text(str(value), LONGEST)
