"""Splits of a task for lm-eval, and the few-shot examples among them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import datasets

SHOTS = 64
"""Size of the few-shot pool. lm-eval copies the pool when it loads a task, and compares each document with
all of it when it draws: all 11,514 training documents of a language would cost more than the rest."""

Example = TypeVar("Example")


class TaskSplits(dict[str, "datasets.Dataset"]):
    """Splits of one task, each read at first use: train, validation, test, and shots."""

    def __init__(self, read: Callable[[str], list[dict[str, Any]]]) -> None:
        """Take the function that returns the documents of a split."""
        self.read = read

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        documents = datasets.Dataset.from_list(self.read(split))
        # lm-eval tells a sampler which document it draws for only if examples come from the evaluated split.
        # So the tasks name that split, and `pool` replaces its documents.
        documents.pool = partial(self.__getitem__, "shots")
        self[split] = documents
        return documents


def pool(documents: "datasets.Dataset") -> "datasets.Dataset":
    """Return the few-shot pool of the documents' task."""
    shots: datasets.Dataset = documents.pool()
    return shots


def draw_shots(examples: Sequence[Example]) -> list[Example]:
    """Return SHOTS examples in a seeded order: in file order they begin with one intent or document."""
    return [examples[i] for i in np.random.default_rng(0).permutation(len(examples))[:SHOTS]]


def document_texts(doc: Mapping[str, Any]) -> set[str]:
    """Return a document's texts (of a translation both), in lower case and with single blanks."""
    fields = ("utterance",) if "utterance" in doc else ("text",) if "text" in doc else ("source", "target")
    return {" ".join(str(doc[field]).casefold().split()) for field in fields}
