"""The sampler of few-shot examples that the task files name."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler

from midalign.errors import TaskError
from midalign.families.shots import document_texts


class OtherTexts(ContextSampler):
    """Sampler of the first examples of the pool whose text differs from the item's.

    All items share the same examples, so that engines compute them once. Only an item that is in the pool
    gets another example in its place.
    """

    def sample(
        self,
        n: int,
        eval_doc: dict[str, Any] | None = None,
        df: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return n examples. Raises TaskError if the pool has fewer."""
        own_texts = document_texts(eval_doc) if eval_doc else set[str]()
        examples: list[dict[str, Any]] = []
        for doc in df or self.df:
            if len(examples) == n:
                break
            if own_texts.isdisjoint(document_texts(doc)):
                examples.append(doc)
        if len(examples) < n:
            raise TaskError(
                f"An item has {len(examples)} few-shot examples that differ from its own text, not {n}. "
                f"Use fewer: --num-fewshot {len(examples)} (num_fewshot={len(examples)})"
            )
        return examples
