"""What lm-eval asks of an engine, and what an engine answers, in one form for both engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from midalign.errors import EngineError

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


def fit(prompt: list[int], settings: Greedy, context: int) -> list[int]:
    """A prompt's end that leaves room for the answer in a base of `context` tokens, as lm-eval cuts it.

    Raises EngineError where the answer alone may be as long as that.
    """
    room = context - settings.max_new
    if room <= 0:
        raise EngineError(
            f"The base takes {context} tokens, prompt included, and an answer may have {settings.max_new}. "
            f"Take a base with a longer context, or leave out the task"
        )
    return prompt[-room:]


def cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    for stop in until:
        if stop:
            text = text.split(stop, 1)[0]
    return text
