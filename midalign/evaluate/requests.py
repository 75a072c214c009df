"""What lm-eval asks of an engine, and what an engine answers, in one form for both engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


def greedy(settings: Mapping[str, Any], max_new: int) -> Greedy | None:
    """The settings of a greedy request; None for sampling or beams, which lm-eval's own engine runs.

    `max_new` is used where the task does not say.
    """
    rest = dict(settings)
    until = rest.pop("until", None) or []
    length = int(rest.pop("max_gen_toks", max_new))
    greedy = not rest.pop("do_sample", False) and not rest.pop("temperature", 0)
    if rest or not greedy:
        return None
    return Greedy(tuple([until] if isinstance(until, str) else until), length)


def cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    for stop in until:
        if stop:
            text = text.split(stop, 1)[0]
    return text
