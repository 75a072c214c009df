"""Pair retrieval by states of a middle layer: whether alignment itself worked, apart from any task."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midalign.data.registry import slot_data
from midalign.evaluate.live import switch

CANDIDATES = 100
PIVOT = "en"
POOLING = "mean without BOS, centred, cosine, both directions"
OTHER_POOLING = "mean without {}, centred, cosine, both directions"
"""Where the tokenizer does not write the configuration's BOS and nothing else: records of before, which left
nothing out there, are not compared with these."""


@dataclass(frozen=True)
class Pairs:
    """Parallel sentences that stand in no training split: `foreign[i]` translates `english[i]`."""

    ids: tuple[str, ...]
    foreign: tuple[str, ...]
    english: tuple[str, ...]


def held_out(
    source: str, languages: Sequence[str], split: str = "test", *, limit: int = CANDIDATES, seed: int = 0
) -> dict[str, Pairs]:
    """Return the same seeded items of a split per language, without those of a training split.

    An item is skipped in a language if its utterance, there or in English, occurs in that language's training
    split or equals that of an earlier candidate: two equal candidates could not be distinguished.
    """
    foreign = [language for language in languages if language != PIVOT]
    if not foreign:
        return {}
    items = slot_data(source).items
    english = {item.id: item.utterance for item in items(PIVOT, split)}
    english_known = {item.utterance for item in items(PIVOT, "train")}
    order = sorted(english)
    random.Random(seed).shuffle(order)
    pairs = {}
    for language in foreign:
        there = {item.id: item.utterance for item in items(language, split)}
        known = {item.utterance for item in items(language, "train")}
        seen_there, seen_english = set(known), set(english_known)
        chosen: list[str] = []
        for item in order:
            if item in there and there[item] not in seen_there and english[item] not in seen_english:
                chosen.append(item)
                seen_there.add(there[item])
                seen_english.add(english[item])
            if len(chosen) == limit:
                break
        pairs[language] = Pairs(
            tuple(chosen), tuple(there[i] for i in chosen), tuple(english[i] for i in chosen)
        )
    return pairs


def digest(pairs: Mapping[str, Pairs]) -> str:
    """Return the sha256 of the lines "<language> <item id>"."""
    lines = (f"{language} {item}\n" for language, chosen in pairs.items() for item in chosen.ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pooling(tokenizer: Any, config: Any) -> str:
    """Return how states are pooled with a tokenizer, in words; `config` is the text decoder's."""
    from midalign.align.sentences import PROBE, added_tokens

    before, after = added_tokens(tokenizer)
    if (before, after) == (1, 0) and tokenizer(PROBE)["input_ids"][0] == config.bos_token_id:
        return POOLING
    return OTHER_POOLING.format("added tokens" if before else "the first token")


def measure(
    model: Any, tokenizer: Any, adapter: str | None, pairs: Mapping[str, Pairs], layer: int
) -> dict[str, float]:
    """Return a model's accuracy by language after `layer` blocks, with one of its adapters or none."""
    from midalign.align.retrieval import pair_accuracy

    switch(model, adapter)
    sentences = sorted({sentence for chosen in pairs.values() for sentence in chosen.english})
    english = dict(zip(sentences, pooled(model, tokenizer, sentences, [layer])[0], strict=True))
    result = {}
    for language, chosen in pairs.items():
        import torch

        (foreign,) = pooled(model, tokenizer, chosen.foreign, [layer])
        result[language] = pair_accuracy(
            foreign, torch.stack([english[s] for s in chosen.english]), centred=True
        )
    return result


def bits_per_character(
    model: Any, tokenizer: Any, adapter: str | None, pairs: Mapping[str, Pairs]
) -> dict[str, float]:
    """Return bits per character of the candidates by language, and of all English ones."""
    from midalign.align.likelihood import bits_per_character, predicted_texts

    switch(model, adapter)
    english = sorted({sentence for chosen in pairs.values() for sentence in chosen.english})
    result = {}
    for language, sentences in [(PIVOT, english), *((code, own.foreign) for code, own in pairs.items())]:
        ids, characters = predicted_texts(tokenizer, sentences, _room(model))
        result[language] = bits_per_character(model, ids, characters, tokenizer.pad_token_id or 0)
    return result


def _room(model: Any) -> int | None:
    """Return the most tokens of a sentence, since rows are padded to a multiple. None: no limit."""
    from midalign.align.rows import MULTIPLE

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context and context - context % MULTIPLE


def pooled(
    model: Any, tokenizer: Any, sentences: Sequence[str], layers: Sequence[int], rows: int = 50
) -> Any:
    """Return sentences' means after numbers of blocks: (layers, sentences, hidden) fp32 on the CPU.

    `layers` are numbers of blocks. A sentence longer than the model's context is truncated at its end.
    """
    import torch

    from midalign.align.sentences import sentence_ids, sink_tokens
    from midalign.align.trunk import pooled_sentences

    room = _room(model)
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    texts = [sentences[i] for i in order]
    ids = sentence_ids(tokenizer, texts, room)
    states = pooled_sentences(model, ids, layers, tokenizer.pad_token_id or 0, sink_tokens(tokenizer), rows)
    return states[:, torch.tensor(order).argsort()]
