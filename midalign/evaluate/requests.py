"""What lm-eval asks of an engine, and what an engine answers, in one form for both engines."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """One answer: the text without its stop string, why it ended, and what it cost."""

    text: str
    finish: Finish
    prompt_tokens: int
    output_tokens: int
    prompt_cut: bool
    """Whether the prompt lost its beginning, for want of room."""


def greedy_settings(settings: Mapping[str, Any], max_new: int) -> Greedy | None:
    """Return the settings of a greedy request, or None for sampling and beams.

    lm-eval's own engine runs these. `max_new` is used if the task has no limit.
    """
    rest = dict(settings)
    until = rest.pop("until", None) or []
    length = int(rest.pop("max_gen_toks", max_new))
    greedy = not rest.pop("do_sample", False) and not rest.pop("temperature", 0)
    if rest or not greedy:
        return None
    return Greedy(tuple([until] if isinstance(until, str) else until), length)


def prompt_room(settings: Greedy, context: int, thoughts: int = 0) -> int:
    """Return the number of tokens that a prompt may have, so that the answer fits into `context` tokens.

    `thoughts` are tokens before the answer. Raises EngineError where thoughts and answer alone may be as long
    as the context.
    """
    left = context - thoughts - settings.max_new
    if left > 0:
        return left
    said = f"The base takes {context} tokens, prompt included, and an answer may have {settings.max_new}"
    remedy = "Take a base with a longer context, or leave out the task"
    if thoughts:
        raise EngineError(
            f"{said} after {thoughts} of thoughts. {remedy}, or let it think less: --max-thinking-tokens "
            f"(max_thinking_tokens=)"
        )
    raise EngineError(f"{said}. {remedy}")


def report_truncated(tasks: Iterable[str], answers: Iterable[Generated], context: int) -> None:
    """Warn of prompts that lost their beginning, by task."""
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
