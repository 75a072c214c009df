"""Measure a mini base on development sentences: bits per byte, copying, retrieval per layer, valid JSON."""

import json
import math
import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from midalign.align.retrieval import pair_accuracy
from midalign.align.trunk import pooled_sentences
from midalign.families import structured

from .exercises import copy_marked
from .texts import LANGUAGES, mini_utterances

BATCH = 50
SHOTS = 3
"""Examples in the few-shot prompt for JSON."""
JSON_ITEMS = 50
"""Items per language in the few-shot measurement of JSON."""
JSON_TOKENS = 200
"""Longest answer in the few-shot measurement of JSON, in tokens."""


@dataclass(frozen=True)
class LanguageFigures:
    """Figures of one language on the mini benchmark's 150 development sentences. Shares lie in 0..1."""

    language: str
    bits_per_byte: float
    bytes_per_token: float
    sentences_copied: float
    spans_copied: float
    valid_json: float
    retrieval: list[float]
    """Share of sentences that find their English parallel, after each number of blocks; empty for English."""


@torch.inference_mode()
def score_tokens(
    model: LlamaForCausalLM, rows: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return, per row, the log2 probability of each token after the first, and whether it ranked first."""
    pad = int(model.config.pad_token_id)
    probabilities, hits = [], []
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        width = max(map(len, part))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in part])
        logits = model(ids).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1) / math.log(2)
        right = logits.argmax(-1) == ids[:, 1:]
        probabilities += [scores[i, : len(row) - 1] for i, row in enumerate(part)]
        hits += [right[i, : len(row) - 1] for i, row in enumerate(part)]
    return probabilities, hits


def share_written(model: LlamaForCausalLM, tokenizer: Tokenizer, asked: list[tuple[str, str]]) -> float:
    """Return the share of (prompt, answer) pairs that greedy decoding answers exactly.

    One forward pass over prompt and answer suffices: greedy decoding writes the answer if and only if each of
    its tokens ranks first after the right tokens before it.
    """
    _, hits = score_tokens(model, [tokenizer.encode(prompt + answer).ids for prompt, answer in asked])
    right = [
        bool(hit[len(tokenizer.encode(prompt).ids) - 1 :].all())
        for hit, (prompt, _) in zip(hits, asked, strict=True)
    ]
    return sum(right) / len(right)


@torch.inference_mode()
def valid_json_share(model: LlamaForCausalLM, tokenizer: Tokenizer, language: str) -> float:
    """Return the share of few-shot answers to `midalign_mini_json` items whose first line is valid JSON.

    The prompt is the task's own, with SHOTS examples; decoding is greedy.
    """
    data = structured.dataset(source="mini", language=language)
    frame = "Utterance: {utterance}\nJSON:"
    shots = "".join(f"{frame} {{target}}\n\n".format(**shot) for shot in list(data["shots"])[:SHOTS])
    items = list(data["validation"])[:JSON_ITEMS]
    rows = [tokenizer.encode(shots + frame.format(**item)).ids for item in items]
    pad, eos = int(model.config.pad_token_id), int(model.config.eos_token_id)
    ends = [eos, *(tokenizer.encode(end, add_special_tokens=False).ids[0] for end in ("\n", "\n\n"))]
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    outputs = model.generate(
        ids,
        attention_mask=(ids != pad).long(),
        max_new_tokens=JSON_TOKENS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    answers = [tokenizer.decode(output).partition("\n")[0] for output in outputs[:, width:].tolist()]
    return sum(map(_is_json, answers)) / len(answers)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def measure_base(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int = 0) -> list[LanguageFigures]:
    """Measure every language on the mini benchmark's development sentences, which are never trained on."""
    layers = range(1, model.config.num_hidden_layers + 1)

    def pooled(rows: list[list[int]]) -> torch.Tensor:
        return pooled_sentences(model, rows, layers, int(model.config.pad_token_id), sink=1)

    english = pooled([tokenizer.encode(text).ids for text in mini_utterances("en", "dev")])
    figures = []
    for language in LANGUAGES:
        texts = mini_utterances(language, "dev")
        size = sum(len(text.encode()) for text in texts)
        rows = [tokenizer.encode(text).ids for text in texts]
        probabilities, _ = score_tokens(model, rows)
        draw = random.Random(f"{seed}/{language}")
        marked = []
        for text in texts:
            prompt, _, answer = copy_marked(text, text, language, draw).rpartition("\nMarked:")
            marked.append((f"{prompt}\nMarked:", answer))
        states = pooled(rows)
        figures.append(
            LanguageFigures(
                language=language,
                bits_per_byte=-sum(float(p.sum()) for p in probabilities) / size,
                bytes_per_token=size / sum(len(row) - 1 for row in rows),
                sentences_copied=share_written(
                    model, tokenizer, [(f"Utterance: {text}\nCopy:", f" {text}") for text in texts]
                ),
                spans_copied=share_written(model, tokenizer, marked),
                valid_json=valid_json_share(model, tokenizer, language),
                retrieval=[]
                if language == "en"
                else [pair_accuracy(a, b) for a, b in zip(states, english, strict=True)],
            )
        )
    return figures
