"""Few-shot examples: the pool of a task, and the texts by which an item's own are left out."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets


def with_pool(documents: "datasets.Dataset", pool: "Callable[[], datasets.Dataset]") -> "datasets.Dataset":
    """Return the documents of a split with a reference to their task's few-shot pool.

    lm-eval tells a sampler which document it draws for only where examples come from the evaluated split. So
    the tasks name that split, and `pool` replaces its documents.
    """
    documents.pool = pool
    return documents


def pool(documents: "datasets.Dataset") -> "datasets.Dataset":
    """Return the few-shot pool of the documents' task."""
    found: datasets.Dataset = documents.pool()
    return found


def texts(doc: Mapping[str, Any]) -> set[str]:
    """Return a document's texts, in lower case and with single blanks; both sides of a translation."""
    fields = ("utterance",) if "utterance" in doc else ("text",) if "text" in doc else ("source", "target")
    return {" ".join(str(doc[field]).casefold().split()) for field in fields}
