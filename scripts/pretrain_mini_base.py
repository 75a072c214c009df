"""Pretrains the bundled mini base: text, tokenizer, training, export, model card. Run from the checkout:

    python scripts/pretrain_mini_base.py --data ../shared/data

Reads non-test text only (`texts`), trains a byte-level BPE tokenizer and a small Llama on it for a time
budget, and writes `midalign/bases/mini`. Killed or interrupted, the same command goes on from the last
checkpoint in `--work`. One thread is many times faster than two on a machine where other programs run,
because each of the many small operations waits for the slower thread: set OMP_NUM_THREADS=1 there.
"""

import argparse
import io
import json
import lzma
import math
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from a checkout that is not installed

from midalign.align.retrieval import accuracy  # noqa: E402
from midalign.align.trunk import pooled_states  # noqa: E402

LANGUAGES = ("en", "es", "ru", "zh", "de", "tr", "hi", "fr", "id", "ja")
MASSIVE = dict(
    zip(
        LANGUAGES,
        ("en-US", "es-ES", "ru-RU", "zh-CN", "de-DE", "tr-TR", "hi-IN", "fr-FR", "id-ID", "ja-JP"),
        strict=True,
    )
)
TATOEBA = dict(
    zip(LANGUAGES[1:], ("spa", "rus", "cmn", "deu", "tur", "hin", "fra", "ind", "jpn"), strict=True)
)
UNSPACED = ("zh", "ja")

VOCABULARY = 8192
BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# Every turn ends with EOS, so a model that answers in chat form stops by itself.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant, found ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

BLOCK = 256  # tokens a row, documents packed one after the other
ROWS = 8  # rows an update on CPU
WARMUP = 100  # updates
DECAY = 0.3  # last part of the budget, learning rate to zero (warmup, stable, decay)
REPEATS = range(700, 1500)  # updates in which half of the rows are meaningless tokens repeated, see `repeats`
CONFIG = dict(
    vocab_size=VOCABULARY,
    hidden_size=224,
    intermediate_size=448,
    num_hidden_layers=8,
    num_attention_heads=7,
    num_key_value_heads=7,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)


# ------------------------------------------------------------------------------------------------------- text


def members(archive: Path, names: set[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of the members of a tar.xz whose path ends in one of `names`."""
    with tarfile.open(archive, "r:xz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if parts[-1] in names and (file := tar.extractfile(member)) is not None:
                yield parts[-1], [line.strip() for line in io.TextIOWrapper(file, "utf-8")]


def massive(data: Path, language: str) -> Iterator[tuple[str, str]]:
    """(partition, utterance) of MASSIVE; annotations are not read."""
    with lzma.open(
        data / "massive" / "1.1" / "data" / f"{MASSIVE[language]}.jsonl.xz", "rt", encoding="utf-8"
    ) as lines:
        for line in lines:
            row = json.loads(line)
            yield row["partition"], row["utt"].strip()


def mini(language: str, split: str) -> list[str]:
    """Utterances of the bundled benchmark, `[slot : value]` reduced to its value."""
    file = ROOT / "midalign" / "data" / "mini" / language / f"{split}.tsv"
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines()[1:]]
    return [re.sub(r"\[\w+ : ([^\]]*)\]", r"\1", annotated) for _, _, annotated in rows]


def key(text: str) -> str:
    """Letters and digits only, so that two texts that differ in case or punctuation count as one."""
    return "".join(character for character in text.casefold() if character.isalnum())


@dataclass(frozen=True)
class Texts:
    """Sentences a language, and (foreign, English) pairs a language; no text of a development or test split.

    `requests` are those of `sentences` that are the mini benchmark's training utterances.
    """

    sentences: dict[str, list[str]]
    requests: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str]]]


def texts(data: Path) -> Texts:
    """Everything that the base is trained on, without the texts that measure models."""
    sentences: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    held_out: set[str] = set()
    for language in LANGUAGES:
        for split in ("dev", "test"):
            held_out.update(map(key, mini(language, split)))
        sentences[language] += mini(language, "train")
        for partition, utterance in massive(data, language):
            if partition == "train":
                sentences[language].append(utterance)
            else:
                held_out.add(key(utterance))
    for archive in ("common-voice", "lingua-sentences"):
        files = {("zh-CN" if (archive, language) == ("common-voice", "zh") else language) + ".txt": language
                 for language in LANGUAGES}  # fmt: skip
        for name, lines in members(data / "text" / f"{archive}.tar.xz", set(files)):
            sentences[files[name]] += lines
    sides = {f"tatoeba.{code}-eng.{side}" for code in TATOEBA.values() for side in (code, "eng")}
    tatoeba = dict(members(data / "tatoeba" / "tatoeba-v1.tar.xz", sides))
    pairs = {}
    for language, code in TATOEBA.items():
        both = list(
            zip(tatoeba[f"tatoeba.{code}-eng.{code}"], tatoeba[f"tatoeba.{code}-eng.eng"], strict=True)
        )
        # The last 100 pairs of each language stay unseen, for whoever measures retrieval on Tatoeba.
        held_out.update(key(side) for pair in both[-100:] for side in pair)
        pairs[language] = both[:-100]
    for language, lines in sentences.items():
        sentences[language] = [line for line in dict.fromkeys(lines) if line and key(line) not in held_out]
    return Texts(
        sentences,
        {language: sorted({*mini(language, "train")} & {*lines}) for language, lines in sentences.items()},
        {language: [(a, b) for a, b in both if a and b and key(a) not in held_out and key(b) not in held_out]
         for language, both in pairs.items()},
    )  # fmt: skip


# ------------------------------------------------------------------------------- copying and formatting lines


def units(sentence: str, language: str) -> list[str]:
    """Words, or characters where a script writes no spaces between words."""
    return list(sentence) if language in UNSPACED else sentence.split()


def spans(sentence: str, language: str, count: int, draw: random.Random) -> list[tuple[int, int]]:
    """Up to `count` ranges of units, in order and apart from each other, none longer than six units."""
    length = len(units(sentence, language))
    cuts = sorted(draw.sample(range(length + 1), min(2 * count, (length + 1) // 2 * 2)))
    return [(start, min(end, start + 6)) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]


def join(parts: list[str], language: str) -> str:
    return ("" if language in UNSPACED else " ").join(parts)


def bare(text: str) -> str:
    """A span without the punctuation around it."""
    return text.strip(" .,;:!?¡¿\"'()。，、！？「」…।*")


def name(draw: random.Random) -> str:
    """A made-up key such as `kotu` or `mari_sel`: keys carry no meaning, so no benchmark's labels."""

    def word() -> str:
        return "".join(
            draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(1, 3))
        )

    return word() if draw.random() < 0.6 else f"{word()}_{word()}"


def copy_whole(sentence: str, language: str, other: str, draw: random.Random) -> str:
    return draw.choice(
        ("Utterance: {0}\nCopy: {0}", "{0}\n{0}", "Text: {0}\nAgain: {0}", '"{0}" -> "{0}"')
    ).format(sentence)


def copy_marked(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """Spans between asterisks, listed after the sentence."""
    parts, found = units(sentence, language), []
    for start, end in spans(sentence, language, draw.randint(1, 3), draw):
        span = join(parts[start:end], language)
        if bare(span):
            parts[start] = "*" + parts[start]
            parts[end - 1] = parts[end - 1] + "*"
            found.append(bare(span))
    return f"Utterance: {join(parts, language)}\nMarked: {'; '.join(found) or 'None'}"


def copy_parts(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """Spans in order of appearance under announced made-up keys: `key: value; key: value`."""
    parts = units(sentence, language)
    found = [bare(join(parts[a:b], language)) for a, b in spans(sentence, language, draw.randint(1, 4), draw)]
    found = [value for value in found if value]
    keys = [name(draw) for _ in found]
    lines = [f"Keys: {', '.join(keys)}", f"Utterance: {sentence}"]
    draw.shuffle(lines)
    return "\n".join(
        [*lines, "Parts: " + ("; ".join(map(": ".join, zip(keys, found, strict=True))) or "None")]
    )


def copy_table(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """A list of made-up keys with values from two sentences, then some of them looked up."""
    found = []
    for text in (sentence, other):
        parts = units(text, language)
        found += [
            bare(join(parts[a:b], language)) for a, b in spans(text, language, draw.randint(1, 3), draw)
        ]
    table = [(name(draw), value) for value in found if value]
    asked = draw.sample(table, draw.randint(1, len(table))) if table else []
    rows = "; ".join(map(": ".join, table))
    separator = draw.choice(("; ", "\n"))
    return f"{rows}\n" + separator.join(map(": ".join, asked))


def copy_between(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """The words from one named word to another, and the ends of the sentence."""
    parts = units(sentence, language)
    lines = [sentence]
    for start, end in spans(sentence, language, 2, draw):
        lines.append(f"from {parts[start]} to {parts[end - 1]}: {join(parts[start:end], language)}")
    lines.append(f"first: {bare(parts[0])}; last: {bare(parts[-1])}")
    return "\n".join(lines)


def copy_shuffled(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """Words without order, twice: only copying predicts the second line."""
    parts = units(sentence, language) + units(other, language)
    draw.shuffle(parts)
    line = join(parts[: draw.randint(4, 20)], language)
    return f"{line}\n{line}"


def copy_chat(sentence: str, language: str, other: str, draw: random.Random) -> str:
    """One of the others in the chat template's form (BOS and the last EOS come with every document)."""
    exercise = draw.choice((copy_whole, copy_marked, copy_parts))(sentence, language, other, draw)
    question, _, answer = exercise.rpartition("\n")
    if not question:
        question, answer = "Copy: " + sentence, sentence
    system = "<|system|>\nCopy the text exactly." + EOS + "\n" if draw.random() < 0.3 else ""
    return f"{system}<|user|>\n{question}{EOS}\n<|assistant|>\n{answer}"


EXERCISES: tuple[Callable[[str, str, str, random.Random], str], ...] = (
    copy_whole, copy_marked, copy_parts, copy_parts, copy_table, copy_between, copy_shuffled, copy_chat,
)  # fmt: skip


def documents(text: Texts, epoch: int, seed: int) -> list[str]:
    """One epoch in random order: requests three times, half of all sentences, pairs in both directions, and a
    copying exercise on each request and on a third of the short sentences.

    Up to four lines of one kind and language make a document, so that a new line is nothing unusual.
    """
    draw = random.Random(f"{seed}/{epoch}")
    out = []

    def group(lines: list[str]) -> None:
        draw.shuffle(lines)
        while lines:
            size = draw.randint(1, 4)
            out.append("\n".join(lines[:size]))
            del lines[:size]

    for language in LANGUAGES:
        sentences, requests = text.sentences[language], text.requests[language]
        short = [sentence for sentence in sentences if len(sentence.encode()) <= 200]
        group(draw.sample(sentences, len(sentences) // 2))
        for _ in range(3):
            group(list(requests))
        group([pair for a, b in text.pairs.get(language, []) for pair in (f"{a} = {b}", f"{b} = {a}")])
        for sentence in draw.sample(short, len(short) // 3) + requests:
            out.append(draw.choice(EXERCISES)(sentence, language, draw.choice(short), draw))
    draw.shuffle(out)
    return out


# -------------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer(text: Texts, folder: Path) -> None:
    """Byte-level BPE: every byte has a token, so any string can be written and read back.

    Han and Hiragana characters and digits stand alone, so that a value has the same tokens inside an unspaced
    sentence as behind `label: `, which is what copying needs.
    """
    tokenizer = Tokenizer(models.BPE())
    word = r" ?[[\p{L}\p{M}]&&[^\p{Han}\p{Hiragana}]]+"
    pattern = word + r"|\p{Han}|\p{Hiragana}|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [line for language in LANGUAGES for line in text.sentences[language]]
    frames = ["Utterance: Copy: Text: Again: Marked: Keys: Parts: Slots: None; from to first: last:"] * 200
    tokenizer.train_from_iterator(lines + frames, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        model_max_length=CONFIG["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def blocks(text: Texts, tokenizer: Tokenizer, epoch: int, seed: int) -> torch.Tensor:
    """(rows, BLOCK) token ids of one epoch: BOS, document, EOS, end to end."""
    eos = tokenizer.token_to_id(EOS)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(documents(text, epoch, seed)):
        ids += encoding.ids
        ids.append(eos)
    rows = torch.from_numpy(np.array(ids[: len(ids) // BLOCK * BLOCK], dtype=np.int16).reshape(-1, BLOCK))
    print(f"epoch {epoch}: {len(ids):,} tokens", flush=True)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch))]


# --------------------------------------------------------------------------------------------------- training


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (Jordan et al. 2024), AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, progress: float) -> float:
    """Learning-rate factor: linear warmup, constant, linear to zero over the last DECAY of the budget."""
    return min(1.0, (step + 1) / WARMUP, max(0.0, (1.0 - progress) / DECAY))


def repeats(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Rows of the same tokens in no order, in pieces of 4 to 40 that are repeated once to thrice.

    Nothing but copying predicts them, which brings forth the heads that find an earlier occurrence and go on
    from there. Text alone had not brought them after 1.4M tokens; 200 updates of these did.
    """
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    out = torch.empty_like(rows)
    for row, tokens in zip(out, rows, strict=True):
        at = 0
        while at < len(row):
            piece = tokens[torch.randperm(len(tokens), generator=draw)[: number(4, 40)]]
            piece = piece.repeat(number(2, 4))[: len(row) - at]
            row[at : at + len(piece)] = piece
            at += len(piece)
    return out


def save_atomically(value: object, file: Path) -> None:
    torch.save(value, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)


def train(
    text: Texts, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Trains until the budget is spent; returns the model and the figures for the card."""
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = ROWS * (8 if device.type == "cuda" else 1)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(device)
    optimisers = optimizers(model)
    base_rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "tokens": 0, "losses": []}
    checkpoint = arguments.work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimiser, values in zip(optimisers, saved["optimizers"], strict=True):
            optimiser.load_state_dict(values)
        state = saved["state"]
        print(f"going on from update {state['step']}", flush=True)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        states = model.model(ids, use_cache=False).last_hidden_state
        logits = model.lm_head(states[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    forward = torch.compile(loss_of) if device.type == "cuda" or shutil.which("g++") else loss_of
    stop = False

    def interrupt(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)

    def save() -> None:
        values = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimisers],
            "state": state,
        }
        save_atomically(values, checkpoint)

    # Which rows an update reads depends on its number alone: epoch after epoch, without the last short batch.
    epoch, data, first = 0, blocks(text, tokenizer, 0, arguments.seed), 0
    budget, last_saved = arguments.minutes * 60, time.monotonic()
    while not stop:
        progress = (
            state["step"] / arguments.steps if arguments.steps else state["seconds"] / budget if budget else 1
        )
        if progress >= 1:
            break
        while state["step"] - first >= len(data) // rows:
            first += len(data) // rows
            epoch += 1
            data = blocks(text, tokenizer, epoch, arguments.seed)
        start = time.monotonic()
        factor = rate(state["step"], progress)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, base_rate in zip(groups, base_rates, strict=True):
            group["lr"] = base_rate * factor
        at = (state["step"] - first) * rows
        ids = data[at : at + rows].long()
        if state["step"] in REPEATS:
            ids[: rows // 2] = repeats(ids[: rows // 2], state["step"])
        ids = ids.to(device)
        # One autocast context an update: its cache of cast weights would freeze them otherwise.
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        state["losses"].append(round(loss.item(), 4))
        state["step"] += 1
        state["tokens"] += ids.numel()
        state["seconds"] += time.monotonic() - start
        if state["step"] % 20 == 0:
            mean = sum(state["losses"][-20:]) / 20
            speed = ids.numel() / (time.monotonic() - start)
            print(
                f"update {state['step']}  epoch {epoch}  loss {mean:.3f}  rate {factor:.2f}  "
                f"{speed:.0f} tokens/s  {state['tokens'] / 1e6:.2f}M tokens  "
                f"{state['seconds'] / 60:.1f} of {arguments.minutes} min",
                flush=True,
            )
        if time.monotonic() - last_saved > 120:
            save()
            last_saved = time.monotonic()
    save()
    state["device"] = f"{device.type}, {torch.get_num_threads()} threads"
    if stop:
        raise SystemExit(f"Interrupted after update {state['step']}; the same command goes on from there.")
    return model.cpu().eval(), state


# -------------------------------------------------------------------------------------------- export and card


@torch.inference_mode()
def log2_probabilities(
    model: LlamaForCausalLM, rows: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per row: log2 probability of each token after the first, and whether it was the most probable one."""
    pad = int(CONFIG["pad_token_id"])
    probabilities, hits = [], []
    for at in range(0, len(rows), 50):
        part = rows[at : at + 50]
        width = max(map(len, part))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in part])
        logits = model(ids).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1) / math.log(2)
        right = logits.argmax(-1) == ids[:, 1:]
        probabilities += [scores[i, : len(row) - 1] for i, row in enumerate(part)]
        hits += [right[i, : len(row) - 1] for i, row in enumerate(part)]
    return probabilities, hits


def states(model: LlamaForCausalLM, rows: list[list[int]]) -> torch.Tensor:
    """Mean state after the middle block, (rows, hidden)."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [int(CONFIG["pad_token_id"])] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        return pooled_states(model, ids, mask, CONFIG["num_hidden_layers"] // 2)


def copied(model: LlamaForCausalLM, tokenizer: Tokenizer, asked: list[tuple[str, str]]) -> float:
    """Share of (prompt, answer) that greedy decoding answers exactly.

    One forward over prompt and answer tells: greedy decoding writes the answer if and only if each of its
    tokens is the most probable one after the right ones before it.
    """
    rows = [tokenizer.encode(prompt + answer).ids for prompt, answer in asked]
    _, hits = log2_probabilities(model, rows)
    right = [
        bool(hit[len(tokenizer.encode(prompt).ids) - 1 :].all())
        for hit, (prompt, _) in zip(hits, asked, strict=True)
    ]
    return sum(right) / len(right)


def measure(model: LlamaForCausalLM, tokenizer: Tokenizer, text: Texts, seed: int) -> list[dict[str, Any]]:
    """Per language, on the mini benchmark's development sentences: bits per byte, a unigram's, copying."""
    table = []
    english = states(model, [tokenizer.encode(sentence).ids for sentence in mini("en", "dev")])
    for language in LANGUAGES:
        counts = np.ones(VOCABULARY)
        for encoding in tokenizer.encode_batch_fast(text.sentences[language], add_special_tokens=False):
            np.add.at(counts, encoding.ids, 1)
        unigram = np.log2(counts / counts.sum())
        sentences = mini(language, "dev")
        size = sum(len(sentence.encode()) for sentence in sentences)
        rows = [tokenizer.encode(sentence).ids for sentence in sentences]
        probabilities, _ = log2_probabilities(model, rows)
        draw = random.Random(f"{seed}/{language}")
        whole = [(f"Utterance: {s}\nCopy:", f" {s}") for s in sentences]
        marked = []
        for sentence in sentences:
            prompt, _, answer = copy_marked(sentence, language, sentence, draw).rpartition("\nMarked:")
            marked.append((f"{prompt}\nMarked:", answer))
        table.append(
            {
                "language": language,
                "bits_per_byte": -sum(float(p.sum()) for p in probabilities) / size,
                "unigram_bits_per_byte": -sum(float(unigram[row[1:]].sum()) for row in rows) / size,
                "copied": copied(model, tokenizer, whole),
                "marked": copied(model, tokenizer, marked),
                "retrieval": accuracy(states(model, rows), english) if language != "en" else None,
                "candidates": len(rows),
            }
        )
    return table


def card(
    model: LlamaForCausalLM, text: Texts, state: dict[str, Any], table: list[dict[str, Any]], seed: int
) -> str:
    """The model card in Markdown; every figure is measured or counted here."""
    parameters = sum(p.numel() for p in model.parameters())
    sentences = sum(map(len, text.sentences.values()))
    pairs = sum(map(len, text.pairs.values()))
    lines = [
        f"| {row['language']} | {row['bits_per_byte']:.3f} | {row['unigram_bits_per_byte']:.3f} "
        f"| {row['copied']:.0%} | {row['marked']:.0%} | "
        + ("" if row["retrieval"] is None else f"{row['retrieval']:.0%}")
        + " |"
        for row in table
    ]
    shape = (
        f"{CONFIG['num_hidden_layers']} blocks, hidden {CONFIG['hidden_size']}, feed-forward "
        f"{CONFIG['intermediate_size']}, {CONFIG['num_attention_heads']} heads, tied embeddings, bfloat16"
    )
    last = state["losses"][-50:]
    return f"""---
license: apache-2.0
language: [{", ".join(LANGUAGES)}]
library_name: transformers
pipeline_tag: text-generation
---
# midalign mini

A Llama of {parameters:,} parameters, small enough to be trained, adapted and scored on two CPU cores. It
exists so that `make demo` and the tests have a real base; it knows little and is no model for any other
use. Written by `scripts/pretrain_mini_base.py`, this card included.

| | |
| --- | --- |
| architecture | `LlamaForCausalLM`: {shape} |
| tokenizer | byte-level BPE, {VOCABULARY:,} tokens; Han, Hiragana and digits single; adds `{BOS}` |
| chat template | system, user and assistant turns, each ended by `{EOS}` |
| context | trained on blocks of {BLOCK} tokens, positions up to {CONFIG["max_position_embeddings"]:,} |
| updates | {state["step"]:,} of {state["tokens"] // max(1, state["step"]):,} tokens |
| tokens | {state["tokens"]:,} |
| seconds | {state["seconds"]:,.0f} on {state["device"]} |
| loss (nats a token) | {sum(last) / max(1, len(last)):.3f} over the last {len(last)} updates |
| seed | {seed} |

## Data

Drawn from {sentences:,} sentences in ten languages, without annotations of any kind: Common Voice
sentences (CC0), Leipzig sentences by way of lingua (CC BY), utterances of MASSIVE's training partition
(CC BY 4.0) and of the mini benchmark's training split (three times a pass); {pairs:,} Tatoeba pairs (CC
BY 2.0 FR) on one line, in both directions; and lines that ask for copying: whole sentences, marked
spans, spans under made-up keys, lookups in lists of made-up keys (in updates {REPEATS.start:,} to
{REPEATS.stop:,} half of the rows are meaningless repeated tokens). Any text that equals (letters and
digits, case folded) one of the development or test splits of MASSIVE or the mini benchmark, or one of
the last 100 Tatoeba pairs of a language, is left out. No slot label and no intent was seen.

## Figures

On the mini benchmark's development sentences, never trained on. Bits per byte, beside those of a unigram
model over the same tokens with counts from the same language's training sentences (add one). Copying is
greedy and exact: the whole sentence (`Utterance: ...` / `Copy: ...`), and the spans between asterisks
(`Marked: ...`). Retrieval: share of sentences that find their English parallel among all
{table[0]["candidates"]} by the mean state after block {CONFIG["num_hidden_layers"] // 2}, centred, both
directions.

| language | bits per byte | unigram model | sentences copied | marked spans copied | retrieval |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def export(
    model: LlamaForCausalLM, text: Texts, state: dict[str, Any], arguments: argparse.Namespace
) -> None:
    """Writes the base beside its place and moves each file over when all are complete."""
    out: Path = arguments.out
    staging = arguments.work / "export"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(arguments.work / "tokenizer", staging)
    model.to(torch.bfloat16).save_pretrained(staging)
    tokenizer = Tokenizer.from_file(str(staging / "tokenizer.json"))
    shipped = LlamaForCausalLM.from_pretrained(staging, dtype=torch.bfloat16).float().eval()
    table = measure(shipped, tokenizer, text, arguments.seed)
    (staging / "README.md").write_text(card(shipped, text, state, table, arguments.seed), "utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staging.iterdir()):
        shutil.copyfile(file, out / f"{file.name}.tmp")
        os.replace(out / f"{file.name}.tmp", out / file.name)
    for row in table:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the text archives"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "midalign" / "bases" / "mini")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "mini-base", help="checkpoints, to go on from"
    )
    parser.add_argument("--minutes", type=float, default=45, help="time in updates, compilation included")
    parser.add_argument("--steps", type=int, default=0, help="this many updates instead, to repeat a run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    text = texts(arguments.data)
    print({language: len(lines) for language, lines in text.sentences.items()}, flush=True)
    folder = arguments.work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(text, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, state = train(text, tokenizer, arguments)
    export(model, text, state, arguments)


if __name__ == "__main__":
    main()
