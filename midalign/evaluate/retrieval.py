"""Pair retrieval by the hidden states of a middle layer, which measures alignment without a task."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midalign import adapter as adapters
from midalign import harness, record
from midalign.data.registry import parallel_sources, slot_data
from midalign.evaluate.live import switch
from midalign.evaluate.settings import EvaluatedModel
from midalign.languages import in_table_order

if TYPE_CHECKING:
    from midalign.evaluate.plan import EvalPlan

CANDIDATES = 100
PIVOT = "en"
POOLING = "mean without BOS, centred, cosine, both directions"
OTHER_POOLING = "mean without {}, centred, cosine, both directions"
"""Pooling for tokenizers that add something else than BOS. Older records pooled all tokens there, so their
retrieval is not comparable."""


@dataclass(frozen=True)
class Pairs:
    """Parallel sentences outside of the training splits: `foreign[i]` is the translation of `english[i]`."""

    ids: tuple[str, ...]
    foreign: tuple[str, ...]
    english: tuple[str, ...]


def held_out_pairs(
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
    # 1. English, in one seeded order for all languages.
    english = {item.id: item.utterance for item in items(PIVOT, split)}
    english_known = {item.utterance for item in items(PIVOT, "train")}
    order = sorted(english)
    random.Random(seed).shuffle(order)
    # 2. Per language the first items whose two utterances are new.
    pairs = {}
    for language in foreign:
        utterances = {item.id: item.utterance for item in items(language, split)}
        seen = {item.utterance for item in items(language, "train")}
        seen_english = set(english_known)
        ids: list[str] = []
        for item in order:
            if item in utterances and utterances[item] not in seen and english[item] not in seen_english:
                ids.append(item)
                seen.add(utterances[item])
                seen_english.add(english[item])
            if len(ids) == limit:
                break
        pairs[language] = Pairs(tuple(ids), tuple(utterances[i] for i in ids), tuple(english[i] for i in ids))
    return pairs


def candidates_digest(pairs: Mapping[str, Pairs]) -> str:
    """Return the sha256 of the lines "<language> <item id>"."""
    lines = (f"{language} {item}\n" for language, candidates in pairs.items() for item in candidates.ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_pooling(tokenizer: Any, config: Any) -> str:
    """Describe how states are pooled with a tokenizer. `config` is that of the text decoder."""
    from midalign.align.sentences import PROBE, added_tokens

    before, after = added_tokens(tokenizer)
    if (before, after) == (1, 0) and tokenizer(PROBE)["input_ids"][0] == config.bos_token_id:
        return POOLING
    return OTHER_POOLING.format("added tokens" if before else "the first token")


def retrieval_accuracy(
    model: Any, tokenizer: Any, adapter: str | None, pairs: Mapping[str, Pairs], layer: int
) -> dict[str, float]:
    """Return the retrieval accuracy by language after `layer` blocks, with an adapter or none."""
    import torch

    from midalign.align.retrieval import pair_accuracy

    switch(model, adapter)
    sentences = sorted({sentence for candidates in pairs.values() for sentence in candidates.english})
    english = dict(zip(sentences, pooled_states(model, tokenizer, sentences, [layer])[0], strict=True))
    result = {}
    for language, candidates in pairs.items():
        (foreign,) = pooled_states(model, tokenizer, candidates.foreign, [layer])
        translations = torch.stack([english[sentence] for sentence in candidates.english])
        result[language] = pair_accuracy(foreign, translations, centred=True)
    return result


def bits_by_language(
    model: Any, tokenizer: Any, adapter: str | None, pairs: Mapping[str, Pairs]
) -> dict[str, float]:
    """Return the bits per character of the candidates of each language, and of all English candidates."""
    from midalign.align.likelihood import bits_per_character, predicted_texts

    switch(model, adapter)
    english = sorted({sentence for candidates in pairs.values() for sentence in candidates.english})
    by_language: dict[str, Sequence[str]] = {
        PIVOT: english,
        **{code: candidates.foreign for code, candidates in pairs.items()},
    }
    result = {}
    for language, sentences in by_language.items():
        ids, characters = predicted_texts(tokenizer, sentences, _room(model))
        result[language] = bits_per_character(model, ids, characters, tokenizer.pad_token_id or 0)
    return result


def _room(model: Any) -> int | None:
    """Return the maximum tokens of a sentence, a multiple of the padding. None is no limit."""
    from midalign.align.rows import MULTIPLE

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context and context - context % MULTIPLE


def pooled_states(
    model: Any, tokenizer: Any, sentences: Sequence[str], layers: Sequence[int], rows: int = 50
) -> Any:
    """Return the mean hidden state of each sentence after some blocks.

    Args:
        model: the model, with the adapter that acts now.
        tokenizer: its tokenizer.
        sentences: texts. One that is longer than the model's context is truncated at its end.
        layers: numbers of blocks.
        rows: sentences in one forward pass.

    Returns:
        (layers, sentences, hidden) fp32 on the CPU, in the order of the sentences.
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


def source_and_languages(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first task's data set, where pairs come from, and the languages of its tasks.

    There are no languages without a task, or if the data set is not parallel.
    """
    if not names:
        return "", []
    source = str(harness.metadata(names[0])["source"])
    if source not in parallel_sources():
        return source, []
    of_source = (name for name in names if harness.metadata(name)["source"] == source)
    languages = {code for name in of_source for code in harness.task_languages(name)} - {PIVOT}
    return source, in_table_order(languages)


def measure_missing(
    plan: "EvalPlan", models: Sequence[EvaluatedModel], base_model: Any, tokenizer: Any
) -> None:
    """Measure retrieval of each model at its aligned layer, on the same candidates, unless it is finished.

    A model that was not aligned is measured at the layer of the run's aligned adapters if they have one in
    common, else at the middle.
    """
    from midalign.align.trunk import depth, layer_index

    if not plan.lacks_retrieval(models):
        return
    source, languages = source_and_languages(plan.retrieval_tasks)
    pairs = held_out_pairs(source, languages, plan.settings.split)
    # Adapters whose records are finished decide the layer too: a resumed run measures at the same one.
    manifests = map(adapters.read_manifest, plan.settings.adapters)
    aligned = {manifest.layer for manifest in manifests if manifest and manifest.layer is not None}
    usual_layer = aligned.pop() if len(aligned) == 1 else layer_index("middle", depth(base_model))
    base_accuracy: dict[int, dict[str, float]] = {}
    base_bits = bits_by_language(base_model, tokenizer, None, pairs)
    for model in models:
        layer = (model.manifest.layer if model.manifest else None) or usual_layer
        if layer not in base_accuracy:
            base_accuracy[layer] = retrieval_accuracy(base_model, tokenizer, None, pairs, layer)
        accuracy, bits = base_accuracy[layer], base_bits
        if model.adapter is not None:
            accuracy = retrieval_accuracy(base_model, tokenizer, model.adapter, pairs, layer)
            bits = bits_by_language(base_model, tokenizer, model.adapter, pairs)
        plan.stores[model.name].write(
            "retrieval",
            record.Retrieval(
                layer=layer,
                candidates=min(len(candidates.ids) for candidates in pairs.values()),
                candidates_digest=candidates_digest(pairs),
                pooling=describe_pooling(tokenizer, base_model.config.get_text_config()),
                accuracy=accuracy,
                base_accuracy=base_accuracy[layer],
                bits_per_character=bits,
                base_bits_per_character=base_bits,
            ),
        )
