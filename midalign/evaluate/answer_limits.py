"""Token limits of answers, from the gold answers in the base's own tokens."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from midalign import adapter as adapters

LIMIT_MULTIPLE = 16
"""Limits of answers are multiples of this number of tokens."""


def limit_answers(tasks: Mapping[str, Any], tokenizer: Any, context: int | None) -> None:
    """Limit answers to what the longest gold answer needs in the base's own tokens, and a quarter.

    A base of `context` tokens, None where its configuration does not say, keeps half of them for the prompt.
    The limits of the task files are in bytes, which fits every tokenizer. With a tokenizer at hand, prompts
    get the rest of the context, and a base that never ends its answers takes less time.
    """
    for task in tasks.values():
        limit = answer_limit(list(task.eval_docs["target"]), tokenizer, context)
        generation = {**task.config.generation_kwargs, "max_gen_toks": limit}
        task.set_config(key="generation_kwargs", value=generation)


def answer_limit(targets: Sequence[str], tokenizer: Any, context: int | None) -> int:
    """Return the tokens of the longest gold answer and a quarter, at most half the context."""
    longest = max(map(len, tokenizer(targets, add_special_tokens=False)["input_ids"]))
    limit = -(-(longest + longest // 4 + 1) // LIMIT_MULTIPLE) * LIMIT_MULTIPLE
    return limit if context is None else min(limit, context // 2)


@cache
def context_tokens(base: str) -> int | None:
    """Return the context of a base in tokens, None where its configuration does not say."""
    return getattr(adapters.base_config(base).get_text_config(), "max_position_embeddings", None)


def task_limit(task: Any) -> int:
    """Return the most tokens of an answer."""
    return int(task.config.generation_kwargs["max_gen_toks"])
