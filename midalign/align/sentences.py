"""Token ids of plain sentences, and the number of tokens that the tokenizer adds."""

from collections.abc import Sequence
from typing import Any

PROBE = "The committee met on Tuesday."


def added_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return how many tokens a tokenizer adds before and after a text, such as BOS and EOS.

    The configuration's `bos_token_id` does not tell: tokenizers add none, another one, or several.
    """
    whole = list(tokenizer(PROBE)["input_ids"])
    text = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    for before in range(len(whole) - len(text) + 1):
        if whole[before : before + len(text)] == text:
            return before, len(whole) - len(text) - before
    return 0, 0


def sink_tokens(tokenizer: Any) -> int:
    """Return how many tokens at the beginning of a sentence are excluded from its mean.

    These are the tokens that the tokenizer adds there. If it adds none, the sentence's first token is the
    attention sink (arXiv 2309.17453, 2402.17762): after the middle block, its state has 147 times the norm of
    the others in SmolLM2 135M, and 72 times in Qwen2.5-Coder 0.5B (scripts/benchmarks/first_token.py BASE).
    """
    before, _ = added_tokens(tokenizer)
    return max(before, 1)


def sentence_ids(tokenizer: Any, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
    """Return the ids of sentences, including tokens that the tokenizer adds before but not after them.

    Args:
        tokenizer: a tokenizer of transformers.
        texts: the sentences.
        longest: limit of ids per sentence, which is truncated on the right. None for no limit.
    """
    _, after = added_tokens(tokenizer)
    room = None if longest is None else longest + after
    rows: list[list[int]] = tokenizer(list(texts), truncation=room is not None, max_length=room)["input_ids"]
    return [ids[: len(ids) - after] for ids in rows]
