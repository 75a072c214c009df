"""The errors that people meet: each message says what was found, what was expected and what to type next."""

import difflib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_LISTED = 60
"""Longest list of valid names that an error prints."""


class MidalignError(Exception):
    """Base of every error that the command line prints as one screen without a traceback."""


class DataError(MidalignError):
    """A data set is missing, truncated, altered or malformed."""


class TaskError(MidalignError):
    """A task, language or split name that does not exist."""


class RecipeError(MidalignError):
    """A recipe with an unknown key, a wrong type or values that contradict each other."""


class AdapterError(MidalignError):
    """An adapter that does not belong to its base, does nothing, or cannot be loaded safely."""


class OverlapError(MidalignError):
    """Training text that holds what is to be scored."""


class BaseModelError(MidalignError):
    """A base model that cannot be found or loaded."""


class TrainingError(MidalignError):
    """Training that cannot go on: a loss that is no number, memory that is full."""


class EngineError(MidalignError):
    """An inference engine that is not installed or does not run here."""


class ClusterError(MidalignError):
    """A Ray cluster that does not answer, does not fit, or went away."""


class RecordError(MidalignError):
    """A run record that does not validate or does not fit the others."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_problem(error: "ValidationError", whole: str = "the file") -> str:
    """Return the first problem that pydantic found, after its place. `whole` names a place without a key."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or whole}: {problem['msg']}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that offers the valid names closest to `name`, empty when none is close."""
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def unknown_name(owner: str, kind: str, name: str, valid: Collection[str]) -> str:
    """Return an error message such as "MASSIVE has no language 'xx'. Available: af, am".

    More than MOST_LISTED valid names are counted instead, with the command that lists languages.
    """
    many = f"{len(valid)}. All language codes: midalign data languages"
    available = ", ".join(valid) if len(valid) <= MOST_LISTED else many
    return f"{owner} has no {kind} {name!r}.{nearest(name, valid)} Available: {available}"
