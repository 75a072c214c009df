"""Thoughts of a reasoning model: their end, their token budget, and the answer after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from midalign.errors import EngineError

BUDGET = 2048
"""Default limit of tokens for thoughts."""


@dataclass(frozen=True)
class Thinking:
    """End of thoughts, as text or as a token id, and their budget of tokens."""

    end: str | int
    budget: int

    @classmethod
    def of(cls, end: str | int | None, budget: int, enable: bool | None) -> "Thinking | None":
        """Return the settings, None without an end of thoughts.

        Raises EngineError for an empty end or budget, and for `enable` without an end.
        """
        if end is None:
            if enable:
                raise EngineError(
                    "Thoughts count as part of the answer unless their end is given: "
                    "--think-end-token '</think>' (think_end_token=</think>)"
                )
            return None
        check_thoughts_end(end)
        if int(budget) < 1:
            raise EngineError(
                f"Found {budget} tokens for thoughts, expected at least 1: --max-thinking-tokens 2048 "
                f"(max_thinking_tokens=2048)"
            )
        return cls(int(end) if isinstance(end, str) and end.isdigit() else end, int(budget))

    def marker(self, tokenizer: Any) -> str:
        """Return the end as text."""
        return self.end if isinstance(self.end, str) else str(tokenizer.decode([self.end]))

    def is_closed(self, tokenizer: Any, prompt: Sequence[int]) -> bool:
        """Return whether the prompt ends the thoughts, as chat templates do with thinking disabled."""
        marker = self.marker(tokenizer)
        tail = tokenizer.decode(prompt[-len(marker.encode()) - 8 :])
        return bool(tail.rstrip().endswith(marker.strip()))

    def is_over(self, tokenizer: Any, thoughts: Sequence[int]) -> bool:
        """Return whether the last tokens of the thoughts contain the end."""
        if isinstance(self.end, int):
            return thoughts[-1:] == [self.end]
        return self.end in tokenizer.decode(thoughts[-len(self.end.encode()) :])


@dataclass(frozen=True)
class Thoughts:
    """Tokens of the thoughts, and how they ended."""

    ids: list[int]
    ended: bool
    """The end of thoughts was generated, so an answer follows."""
    stopped: bool = False
    """The model ended its output without an end of thoughts: the output is an answer."""


def check_thoughts_end(end: str | int) -> None:
    """Raise EngineError for an empty end of thoughts, which every text contains."""
    if isinstance(end, str) and not end.strip():
        raise EngineError(
            f"Found the end of thoughts {end!r}, expected text: --think-end-token '</think>' "
            f"(think_end_token=</think>)"
        )


def answer_of(output: str, end: str) -> str:
    """Return the text after the last end of thoughts, the whole output if there is none."""
    return output.rpartition(end)[2].lstrip() if end in output else output


def sampled_thoughts_error() -> EngineError:
    """Return the error for requests that lm-eval's own loop would stop within the thoughts."""
    return EngineError(
        "Thoughts are removed in greedy decoding only, but a task asks for sampling or beams. Remove "
        "temperature, do_sample and num_beams from --gen_kwargs, or remove think_end_token"
    )
