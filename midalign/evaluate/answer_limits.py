"""Token limits of answers, from the gold answers in the base's own tokens."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from midalign import adapter as adapters
from midalign.rounding import round_up

LIMIT_MULTIPLE = 16
"""Limits are multiples of this number of tokens."""


def limit_answers(tasks: Mapping[str, Any], tokenizer: Any, context: int | None) -> None:
    """Limit the answers of each task to 1.25 times the tokens of its longest gold answer.

    The limits in the task files are in bytes, which is safe for every tokenizer. These limits are shorter, so
    that prompts get more of the context, and a base that never ends its answers takes less time. `context` is
    the context of the base in tokens, None if its configuration does not have it.
    """
    for task in tasks.values():
        limit = answer_limit(list(task.eval_docs["target"]), tokenizer, context)
        generation = {**task.config.generation_kwargs, "max_gen_toks": limit}
        task.set_config(key="generation_kwargs", value=generation)


def answer_limit(targets: Sequence[str], tokenizer: Any, context: int | None) -> int:
    """Return 1.25 times the tokens of the longest gold answer, rounded up, but at most half the context."""
    longest = max(map(len, tokenizer(targets, add_special_tokens=False)["input_ids"]))
    limit = round_up(longest + longest // 4 + 1, LIMIT_MULTIPLE)
    return limit if context is None else min(limit, context // 2)


@cache
def context_tokens(base: str) -> int | None:
    """Return the context length of a base in tokens, None if its configuration does not have it."""
    return getattr(adapters.base_config(base).get_text_config(), "max_position_embeddings", None)


def task_limit(task: Any) -> int:
    """Return the maximum number of tokens of a task's answers."""
    return int(task.config.generation_kwargs["max_gen_toks"])
