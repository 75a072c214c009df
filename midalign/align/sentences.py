"""Token ids of plain sentences, and how many of them the tokenizer adds."""

from collections.abc import Sequence
from typing import Any

PROBE = "The committee met on Tuesday."


def added_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return how many tokens a tokenizer writes before and after a text by itself, such as BOS and EOS.

    The configuration's `bos_token_id` does not say: tokenizers write none, another one, or several.
    """
    whole = list(tokenizer(PROBE)["input_ids"])
    text = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    for before in range(len(whole) - len(text) + 1):
        if whole[before : before + len(text)] == text:
            return before, len(whole) - len(text) - before
    return 0, 0


def sink_tokens(tokenizer: Any) -> int:
    """Return how many tokens at the beginning of a sentence no mean is taken over.

    These are the tokens that the tokenizer adds there. Where it adds none, it is the sentence's first token,
    which then is the attention sink (arXiv 2309.17453, 2402.17762): after the middle block its state has 147
    times the norm of the others in SmolLM2 135M, and 72 times in Qwen2.5-Coder 0.5B
    (scripts/benchmarks/first_token.py BASE).
    """
    before, _ = added_tokens(tokenizer)
    return max(before, 1)


def sentence_ids(tokenizer: Any, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
    """Return the ids of sentences, with what the tokenizer writes before them and without what it adds after.

    Args:
        tokenizer: of transformers.
        texts: the sentences.
        longest: most ids of one sentence, which loses its end beyond; None without a limit.
    """
    _, after = added_tokens(tokenizer)
    room = None if longest is None else longest + after
    rows: list[list[int]] = tokenizer(list(texts), truncation=room is not None, max_length=room)["input_ids"]
    return [ids[: len(ids) - after] for ids in rows]
