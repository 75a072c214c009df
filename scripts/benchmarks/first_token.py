"""Norms of the first token's hidden states, and retrieval by means with and without that token.

python scripts/benchmarks/first_token.py BASE [BASE ...]

Development sentences of the mini benchmark, English and SENTENCES of each other language, in fp32. Ways to
tokenize: as the tokenizer does, without the tokens that it adds, and with BOS (or the end of text) before
these. Printed by way and layer: the median norm of the first and of the second token's state and the largest
norm of any later one, all divided by the median norm of the later tokens. Then the share of the mean state
that the first token makes up: |mean - mean without it| / |mean without it|. Then centred retrieval of
translations, in per cent, by the mean over all tokens, without the first and without the first two.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from midalign import bases
from midalign.align.retrieval import pair_accuracy
from midalign.align.trunk import depth, states_at_each
from midalign.data import mini
from midalign.evaluate import live
from midalign.languages import languages

SENTENCES = 50
SHARES = (0.25, 0.5, 0.75)
"""Layers, as shares of the depth."""

Encode = Callable[[str], list[int]]


def ways(tokenizer: Any) -> dict[str, Encode]:
    """Ways to tokenize a sentence, by name."""

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def usual(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    begin = next(token for token in known if token is not None)
    named = {f"tokenizer's ({len(usual('a')) - len(plain('a'))} added)": usual, "nothing added": plain}
    return named | {f"{tokenizer.decode([begin])} + text": lambda text: [begin, *plain(text)]}


def states_of(
    model: Any, sentences: Sequence[str], encode: Encode, layers: Sequence[int]
) -> list[torch.Tensor]:
    """Return (layers, tokens, hidden) fp32 of each sentence, run alone: no padding."""
    found = []
    for sentence in sentences:
        ids = torch.tensor([encode(sentence)])
        found.append(torch.stack([state[0] for state in states_at_each(model, {"input_ids": ids}, layers)]))
    return found


def mean_from(state: torch.Tensor, start: int) -> torch.Tensor:
    """Return the mean (hidden,) of (tokens, hidden) from a token on; of all tokens if none is left."""
    return state[start if len(state) > start else 0 :].mean(0)


@torch.inference_mode()
def print_table(base: str) -> None:
    """Measure a base and print its rows."""
    model, tokenizer = live.load_with_adapters(bases.resolve(base), {}, "float32")
    layers = [round(share * depth(model)) for share in SHARES]
    codes = [code for code, row in languages().items() if row.codes["mini"]]
    texts = {code: [item.utterance for item in mini.items(code, "validation")[:SENTENCES]] for code in codes}
    config = model.config.get_text_config()
    print(
        f"\n{base}: {depth(model)} blocks, BOS {config.bos_token_id} by config, "
        f"{tokenizer.bos_token_id} by tokenizer"
    )
    print("way                        layer  first second  max later  moved     all  -first  -two")
    for way, encode in ways(tokenizer).items():
        states = {code: states_of(model, own, encode, layers) for code, own in texts.items()}
        for place, layer in enumerate(layers):
            every = [state[place] for own in states.values() for state in own if state.shape[1] > 3]
            later = torch.cat([state[2:] for state in every]).norm(dim=-1)
            usual = later.median()
            first, second = (torch.stack([state[i] for state in every]).norm(dim=-1) for i in (0, 1))
            moved = [
                float((state.mean(0) - mean_from(state, 1)).norm() / mean_from(state, 1).norm())
                for state in every
            ]
            retrieval = []
            for start in (0, 1, 2):
                pooled = {
                    code: torch.stack([mean_from(state[place], start) for state in own])
                    for code, own in states.items()
                }
                found = [pair_accuracy(pooled[code], pooled["en"]) for code in codes if code != "en"]
                retrieval.append(100 * sum(found) / len(found))
            print(
                f"{way:26} {layer:5} {first.median() / usual:6.1f} {second.median() / usual:6.1f} "
                f"{later.max() / usual:10.1f} {torch.tensor(moved).median():6.2f}  "
                + "".join(f"{share:7.1f}" for share in retrieval)
            )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print_table(name)
