"""The errors that people meet: each message says what was found, what was expected and what to type next."""

import difflib
from collections.abc import Iterable


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


def nearest(name: str, valid: Iterable[str]) -> str:
    """A sentence end that offers the valid names closest to `name`, empty when none is close."""
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
