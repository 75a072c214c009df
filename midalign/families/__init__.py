"""Task families: data set, prompt's fields, target and score of one document."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from midalign.data.overlap import Text


class Family(Protocol):
    """What a family's module has; its metrics are in midalign.metrics under the same name."""

    def dataset(self, **metadata: Any) -> Any:
        """The splits of a task, by name, as lm-eval's `custom_dataset` wants them."""

    def counts(self, doc: Mapping[str, Any], output: str) -> list[int]:
        """The family's COLUMNS of a document's output."""

    def metrics(self, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those of the family's METRICS that a task has, the headline first."""

    def signatures(self, metadata: Mapping[str, Any]) -> dict[str, str]:
        """Return how another tool's scores of a task were computed on this machine, by metric."""

    def constraint(self, doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any] | str:
        """What constrained decoding holds a document's output to: a JSON Schema, or a grammar in xgrammar's
        EBNF; raises TaskError in a family without."""

    def data_digest(self, metadata: Mapping[str, Any], split: str) -> str:
        """The data set's own digest of a split of a task."""

    def origin(self, metadata: Mapping[str, Any], split: str) -> str:
        """The data set that a split of a task comes from."""

    def texts(self, metadata: Mapping[str, Any], split: str) -> "list[Text]":
        """The sentences of a split, one text a language; raises TaskError where the data set lacks it."""


def family(name: str) -> Family:
    """The module of one of midalign.metrics.FAMILIES."""
    return cast(Family, import_module(f"midalign.families.{name}"))
