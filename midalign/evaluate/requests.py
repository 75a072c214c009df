"""Requests of lm-eval and answers of an engine, in one form for both engines."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from midalign.errors import EngineError

log = logging.getLogger(__name__)

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Greedy:
    """Settings of one greedy generation, out of a task's `generation_kwargs`."""

    until: tuple[str, ...]
    max_new: int


@dataclass(frozen=True)
class Generated:
    """One answer: its text without the stop string, why it ended, and its number of tokens."""

    text: str
    finish: Finish
    prompt_tokens: int
    output_tokens: int
    prompt_cut: bool
    """True if the prompt was truncated on the left to fit into the context."""


class Answer(NamedTuple):
    """An engine's answer to a request, with the stop string that may end it."""

    text: str
    finish: Finish
    tokens: int


def greedy_settings(settings: Mapping[str, Any], max_new: int) -> Greedy | None:
    """Return the settings of a greedy request, or None for sampling and beams, which lm-eval's own loop runs.

    `max_new` is the limit of tasks without one.
    """
    unknown = dict(settings)
    until = unknown.pop("until", None) or []
    length = int(unknown.pop("max_gen_toks", max_new))
    is_greedy = not unknown.pop("do_sample", False) and not unknown.pop("temperature", 0)
    if unknown or not is_greedy:
        return None
    return Greedy(tuple([until] if isinstance(until, str) else until), length)


def prompt_room(settings: Greedy, context: int, thoughts: int = 0) -> int:
    """Return the maximum number of tokens of a prompt, so that its answer fits into `context` tokens.

    `thoughts` is the budget of tokens before the answer. Raises EngineError if thoughts and answer alone may
    fill the context.
    """
    left = context - thoughts - settings.max_new
    if left > 0:
        return left
    problem = f"The context of the base is {context} tokens, and an answer may have {settings.max_new}"
    remedy = "Use a base with a longer context, or skip the task"
    if thoughts:
        raise EngineError(
            f"{problem} after {thoughts} of thoughts. {remedy}, or shorten the thoughts: "
            f"--max-thinking-tokens (max_thinking_tokens=)"
        )
    raise EngineError(f"{problem}. {remedy}")


def report_truncated(tasks: Iterable[str], answers: Iterable[Generated], context: int) -> None:
    """Warn of truncated prompts, by task."""
    counts = Counter[str]()
    totals = Counter[str]()
    for task, answer in zip(tasks, answers, strict=True):
        totals[task] += 1
        counts[task] += answer.prompt_cut
    for task, count in counts.items():
        if count:
            log.warning(
                "%s: %d of %d prompts truncated on the left, to fit prompt and answer into %d tokens",
                *(task, count, totals[task], context),
            )


def cut_at_stop(text: str, until: Sequence[str]) -> str:
    """Return `text` up to the first of the stop strings."""
    for stop in until:
        if stop:
            text = text.split(stop, 1)[0]
    return text


def even_parts(items: int, most: int) -> list[slice]:
    """Return slices of even size over `items`, as few as possible: a GPU idles at the end of each."""
    parts = math.ceil(items / most)
    return [slice(items * number // parts, items * (number + 1) // parts) for number in range(parts)]
