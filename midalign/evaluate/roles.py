"""Roles of languages in training: supervised, aligned, unseen."""

import logging
from collections.abc import Sequence

from midalign import adapter as adapters
from midalign import harness, record
from midalign.evaluate.settings import EvalSettings, EvaluatedModel
from midalign.languages import in_table_order, role_of, same_language
from midalign.languages import language as known_language

log = logging.getLogger(__name__)


def assign_roles(
    settings: EvalSettings, models: Sequence[EvaluatedModel], names: Sequence[str]
) -> dict[str, record.Roles]:
    """Return the roles of languages per model: those of its manifest, else those of the settings.

    The base takes the roles of the adapters.
    """
    for code in (*settings.supervised, *settings.aligned):
        known_language(code)
    evaluated = {code for name in names for code in harness.task_languages(name)}
    sides = {}
    for model in models:
        if model.manifest:
            sides[model.name] = set(model.manifest.supervised), set(model.manifest.aligned)
            _warn_of_ignored_roles(settings, model.name, *sides[model.name])
        else:
            sides[model.name] = set(settings.supervised), set(settings.aligned)
    base = next((model.name for model in models if model.folder is None), None)
    if base is not None and len(models) > 1:
        adapter_sides = [side for name, side in sides.items() if name != base]
        supervised = set().union(*(side[0] for side in adapter_sides))
        sides[base] = supervised, set().union(*(side[1] for side in adapter_sides)) - supervised
    return {
        name: record.Roles(
            supervised=in_table_order(supervised),
            aligned=in_table_order(aligned - supervised),
            unseen=in_table_order(
                {code for code in evaluated if role_of(code, supervised, aligned) == "unseen"}
            ),
        )
        for name, (supervised, aligned) in sides.items()
    }


def _warn_of_ignored_roles(
    settings: EvalSettings, name: str, supervised: set[str], aligned: set[str]
) -> None:
    """Warn of roles in the settings that differ from those of a manifest, which take precedence."""
    for option, given, known in (
        ("--supervised", settings.supervised, supervised),
        ("--aligned", settings.aligned, aligned),
    ):
        if given and set(map(same_language, given)) != set(map(same_language, known)):
            log.warning(
                "%s %s is ignored for %s: its %s says %s",
                *(
                    option,
                    ",".join(given),
                    name,
                    adapters.MANIFEST,
                    ",".join(in_table_order(known)) or "none",
                ),
            )
