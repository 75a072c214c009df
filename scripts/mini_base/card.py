"""Write the mini base's model card."""

from collections.abc import Sequence

from .documents import SHARES
from .measurement import JSON_ITEMS, SHOTS, LanguageFigures
from .texts import LANGUAGES, TATOEBA_HELD_OUT, Corpus
from .tokenizer import BOS, EOS, VOCABULARY
from .training import BLOCK, CONFIG, CONTEXT, DECAY, LONG_EVERY, REPEATS, Settings, TrainState

EARLIER_TOKENS = 11_128_832
"""Training tokens of the base that `--start` continues from: commit 7dce415, trained by its own script."""
TRIALS = (
    ("AdamW, learning rate 3e-3", 4096, "2.787", "5.44"),
    ("Muon, learning rate 3e-3", 4096, "2.395", "4.88"),
)
"""Short runs of 700,000 tokens: settings, tokens per update, mean bits per byte, loss at update 150."""

FINE_TUNED = (
    ("en", 81.9, 97.3, 0.0, 59.1),
    ("es", 77.4, 93.3, 0.0, 61.6),
    ("ru", 73.3, 91.7, 0.0, 56.1),
    ("zh", 75.8, 93.0, 0.0, 72.8),
)
"""After 300 task updates: language, slot F1 before and after, span F1 before and after, in percent."""

LICENCES = {
    "MASSIVE, training partition": "CC BY 4.0",
    "mini benchmark, training split": "Apache-2.0 (this project)",
    "Common Voice": "CC0",
    "Leipzig (lingua)": "CC BY",
    "Tatoeba": "CC BY 2.0 FR",
}
"""Licence per source, in the order of the card."""

COLUMNS = (
    *("bits per byte", "after", "change", "bytes per token", "sentences", "after"),
    *("spans", "after", "JSON", "after", "retrieval", "after"),
)


def best_layer(figures: Sequence[LanguageFigures]) -> int:
    """Return the number of blocks after which the mean retrieval over languages is highest."""
    layers = range(CONFIG["num_hidden_layers"])
    means = [sum(row.retrieval[layer] for row in figures if row.retrieval) for layer in layers]
    return means.index(max(means)) + 1


def write_card(
    parameters: int,
    corpus: Corpus,
    state: TrainState,
    settings: Settings,
    device: str,
    figures: Sequence[LanguageFigures],
    previous: Sequence[LanguageFigures],
) -> str:
    """Return the card in Markdown. Every figure is measured or counted by this package.

    Args:
        parameters: number of weights.
        corpus: text that the base was trained on.
        state: counters at the end of training.
        settings: settings of the run.
        device: hardware in words.
        figures: figures of this base.
        previous: figures of the base that it replaces.
    """
    layer, previous_layer = best_layer(figures), best_layer(previous)
    shape = (
        f"{CONFIG['num_hidden_layers']} blocks, hidden {CONFIG['hidden_size']}, feed-forward "
        f"{CONFIG['intermediate_size']}, {CONFIG['num_attention_heads']} heads, tied embeddings, bfloat16"
    )
    counts = "\n".join(
        f"| {name} | {licence} | " + " | ".join(f"{corpus.counts[name][code]:,}" for code in LANGUAGES) + " |"
        for name, licence in LICENCES.items()
    )
    rows = "\n".join(
        f"| {new.language} | {old.bits_per_byte:.3f} | {new.bits_per_byte:.3f} "
        f"| {new.bits_per_byte / old.bits_per_byte - 1:+.0%} | {new.bytes_per_token:.2f} "
        f"| {old.sentences_copied:.0%} | {new.sentences_copied:.0%} "
        f"| {old.spans_copied:.0%} | {new.spans_copied:.0%} "
        f"| {old.valid_json:.0%} | {new.valid_json:.0%} "
        + (f"| {old.retrieval[previous_layer - 1]:.0%} | {new.retrieval[layer - 1]:.0%} |"
           if new.retrieval else "| | |")
        for old, new in zip(previous, figures, strict=True)
    )  # fmt: skip
    layers = "\n".join(
        f"| {after} | {_mean_retrieval(previous, after):.0%} | {_mean_retrieval(figures, after):.0%} |"
        for after in range(1, CONFIG["num_hidden_layers"] + 1)
    )
    tuned = "\n".join(f"| {' | '.join(map(str, row))} |" for row in FINE_TUNED)
    trials = "\n".join(f"| {' | '.join(map(str, trial))} |" for trial in TRIALS)
    last = state.losses[-50:]
    return f"""---
license: apache-2.0
language: [{", ".join(LANGUAGES)}]
library_name: transformers
pipeline_tag: text-generation
---
# midalign mini

A Llama of {parameters:,} parameters that can be trained, adapted and evaluated on two CPU cores. It exists so
that `make demo` and the tests have a real base model. It is too small for any other use.
`python scripts/pretrain_mini_base.py` trained it and wrote this card.

| | |
| --- | --- |
| architecture | `LlamaForCausalLM`: {shape} |
| tokenizer | byte-level BPE, {VOCABULARY:,} tokens; Han, Hiragana and digits single; adds `{BOS}` |
| chat template | system, user and assistant turns, each ended by `{EOS}` |
| context | {CONTEXT:,} tokens: rows of {BLOCK}, in every {LONG_EVERY}th update of {CONTEXT:,} |
| updates | {state.updates:,} of {settings.batch_tokens:,} tokens |
| tokens | {state.tokens:,} in this run, after {EARLIER_TOKENS:,} of the base it started from |
| seconds | {state.seconds:,.0f} on {device} |
| optimizer | {settings.optimizer}, rate {settings.learning_rate:g}, decay over the last {DECAY:.0%} |
| loss (nats per token) | {sum(last) / max(1, len(last)):.3f} over the last {len(last)} updates |
| seed | {settings.seed} |

## Data

Sentences per source and language, without annotations of any kind:

| source | licence | {" | ".join(LANGUAGES)} |
| --- | --- | {" | ".join("---" for _ in LANGUAGES)} |
{counts}

{len(corpus.meanings):,} sentences exist in several languages (MASSIVE, the mini benchmark, Tatoeba) and are
shown as translations in all directions. {SHARES["sentences"]:.0%} of the documents are plain sentences,
{SHARES["translations"]:.0%} translations, and {SHARES["exercises"] + SHARES["few_shot"]:.0%} exercises
made by a seeded generator: copying, marked spans, lists, key-value lines, quotation and JSON, all with
made-up keys. Between {REPEATS[0]:.0%} and {REPEATS[1]:.0%} of training, half of the rows are repeated random
tokens.

{corpus.excluded:,} sentences were excluded because they equal (letters and digits, case-folded) a
development or test text of MASSIVE, the mini benchmark, NTREX, WMT23, Universal NER or FLORES (by way of
ALMA), or one of the last {TATOEBA_HELD_OUT} Tatoeba pairs of a language. xSID was not at hand. The base that
this run started from (`git show 7dce415`) had read the same sources and 60 of the excluded lines, such as
"Good morning." It excluded only MASSIVE, the mini benchmark and Tatoeba. The base has seen no slot label,
intent or entity label.

## Figures

Before (the base that this run started from) and after, on the mini benchmark's 150 development
sentences per language, never trained on.

- *Sentences* and *spans*: share copied exactly by greedy decoding (`Utterance: ...` / `Copy: ...`, and the
  spans between asterisks).
- *JSON*: share of {JSON_ITEMS} few-shot answers ({SHOTS} examples, no training) that are valid JSON.
- *Retrieval*: share of sentences that find their English parallel among all 150 by the mean hidden state,
  centred, both directions, after the best block (before: {previous_layer}, after: {layer}).

{" | ".join(("| language", *COLUMNS))} |
{"| --- " * (len(COLUMNS) + 1)}|
{rows}

Mean retrieval of nine languages:

| after block | before | after |
| --- | --- | --- |
{layers}

Baselines after 300 task updates in these four languages, on their 150 development items, in percent (seed 1,
`midalign-train mini task=midalign_mini_slot updates=300 "seeds=[1]" evaluation.split=validation
--arm baseline`, and the same with `task=midalign_mini_json`):

| language | slot F1 | after | span F1 of JSON | after |
| --- | --- | --- | --- | --- |
{tuned}

## Choice of the optimizer

Runs of 700,000 tokens, one thread on a busy machine, mean bits per byte of ten languages at the end:

| optimizer | tokens per update | bits per byte | loss at update 150 |
| --- | --- | --- | --- |
{trials}

A run of 20.0 million tokens from random weights, in 4,883 updates of 4,096 (Muon, 6e-3, one request in eight
from the mini benchmark), was worse than the earlier base: 0.755 bits per byte (0.594), 76% of the sentences
copied (98%), 31% of the spans (43%). So this run starts from the earlier base. After 0.4 million tokens from
there, the loss was 2.25 (Muon, 2,048 tokens per update, learning rate 1.5e-3) and 2.39 (3e-3). From random
weights it was 3.18 after 1.5 million.

Two cores with AMX train 6,000 tokens per second with 2,048 tokens per update and 7,500 with 4,096, of which
Muon's own work takes 24% and 14% (rows of {BLOCK} tokens).
"""


def _mean_retrieval(figures: Sequence[LanguageFigures], after: int) -> float:
    values = [row.retrieval[after - 1] for row in figures if row.retrieval]
    return sum(values) / len(values)
