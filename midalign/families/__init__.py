"""Task families: the data set, the prompt's fields, the target and the score of one document."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from midalign.data.overlap import SplitText


class Family(Protocol):
    """Module of a family. Its metrics are in midalign.metrics under the same name."""

    def dataset(self, **metadata: Any) -> Any:
        """Return the splits of a task, by name, for lm-eval's `custom_dataset`."""

    def counts(self, doc: Mapping[str, Any], output: str) -> list[int]:
        """Return the family's COLUMNS of a document's output."""

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> Mapping[str, Any]:
        """Return a document's value of each metric, for lm-eval."""

    def metrics(self, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the family's METRICS that a task has, the headline first."""

    def signatures(self, metadata: Mapping[str, Any]) -> dict[str, str]:
        """Return how another tool's scores of a task were computed on this machine, by metric."""

    def constraint(self, doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any] | str:
        """Return the constraint of a document's output: a JSON Schema, or a grammar in xgrammar's EBNF.

        Raises TaskError in a family without constraints.
        """

    def input_field(self, metadata: Mapping[str, Any]) -> str | None:
        """Return the documents' field with the text to work on, None if the prompt names its language."""

    def data_digest(self, metadata: Mapping[str, Any], split: str) -> str:
        """Return the data set's digest of a split of a task."""

    def origin(self, metadata: Mapping[str, Any], split: str) -> str:
        """Return the name of the data set that a split of a task comes from."""

    def texts(self, metadata: Mapping[str, Any], split: str) -> "list[SplitText]":
        """Return the sentences of a split, one text per language.

        Raises TaskError if the data set lacks it.
        """


def family(name: str) -> Family:
    """Return the module of one of midalign.metrics.FAMILIES."""
    return cast(Family, import_module(f"midalign.families.{name}"))
