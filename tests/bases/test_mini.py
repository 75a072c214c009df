"""The bundled base is what its card and issue say: small, bf16, plain transformers, better than unigrams."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from midalign.bases import resolve

MINI = Path(resolve("mini"))
TEXTS = Path(__file__).parents[2] / "midalign" / "data" / "mini"
LANGUAGES = ["en", "es", "ru", "zh", "de", "tr", "hi", "fr", "id", "ja"]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()


def sentences(language: str, split: str) -> list[str]:
    rows = (TEXTS / language / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
    return [re.sub(r"\[\w+ : ([^\]]*)\]", r"\1", row.split("\t")[2]) for row in rows]


def test_size_and_type():
    from safetensors import safe_open

    file = MINI / "model.safetensors"
    assert file.stat().st_size <= 16 * 2**20
    assert not [f for f in MINI.iterdir() if f.suffix in {".bin", ".pt", ".py", ".tmp"}]
    with safe_open(file, "pt") as weights:
        tensors = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - no iterator
    assert {tensor.get_dtype() for tensor in tensors.values()} == {"BF16"}
    parameters = sum(math.prod(tensor.get_shape()) for tensor in tensors.values())
    assert 4_000_000 <= parameters <= 8_000_000
    assert f"{parameters:,}" in (MINI / "README.md").read_text("utf-8")


@given(text=st.text())
@example(text=" two  spaces\t\n\n\r\n ")
@example(text="e\u0301 \u200d ﷽ 🙂👩‍👩‍👧 \x00 \ufffd")
@example(text="कल सुबह 8 बजे、明日の朝8時に。 İstanbul'da")
@example(text="<|user|>\n<|end|>")
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_tokenizer_adds_one_bos_and_knows_its_special_tokens(tokenizer):
    ids = tokenizer("Guten Morgen").input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == 8192


@pytest.mark.parametrize("value", ["爵士乐", "東京", "Берлин", "कल सुबह", "New York", "7:30"])
def test_value_has_the_same_tokens_behind_a_label_as_in_a_sentence(tokenizer, value):
    """Otherwise copying a value means respelling it."""
    space = "" if re.match(r"[爵東]", value) else " "
    alone = tokenizer(space + value, add_special_tokens=False).input_ids
    for frame in (f"x{space}{value}。", f"label: {value}; other: x", f"label: {value}\n"):
        ids = tokenizer(frame, add_special_tokens=False).input_ids
        assert any(ids[at : at + len(alone)] == alone for at in range(len(ids))), frame


def test_chat_template(tokenizer, model):
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": " hi "},
        {"role": "assistant", "content": "yo"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>\nS<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\nyo<|end|>\n<|assistant|>\n"
    )
    ids = tokenizer.apply_chat_template(turns[1:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    with pytest.raises(Exception, match="roles are system, user and assistant, found tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.fixture(scope="module")
def card():
    """Return the rows of the card's table: language -> its figures, `old` and `new`, shares in percent."""
    names = ("old bits", "new bits", "change", "bytes per token", "old sentences", "new sentences")
    names += ("old spans", "new spans", "old JSON", "new JSON")
    rows = re.findall(r"^\| (\w\w) \|((?: [-+\d.]+%? \|){10})", _card_text(), re.M)
    return {
        language: dict(zip(names, (float(cell.strip(" %")) for cell in cells.split("|")[:-1]), strict=True))
        for language, cells in rows
    }


def _card_text() -> str:
    return (MINI / "README.md").read_text("utf-8")


def test_card_has_the_figures(card):
    assert list(card) == LANGUAGES
    figures = dict(re.findall(r"^\| (updates|tokens|seconds|seed)[^|]* \| ([\d,]+)", _card_text(), re.M))
    assert int(figures["tokens"].replace(",", "")) > 1_000_000
    assert set(figures) == {"updates", "tokens", "seconds", "seed"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_bits_per_byte_are_below_a_unigram_model_and_as_on_the_card(model, tokenizer, card, language):
    """Measured again here, the unigram model on better terms: counts of the same domain's training split."""
    import torch

    counts = Counter(
        i for s in sentences(language, "train") for i in tokenizer(s, add_special_tokens=False).input_ids
    )
    total = sum(counts.values()) + len(tokenizer)
    texts = sentences(language, "dev")
    size = sum(len(text.encode()) for text in texts)
    rows = [tokenizer(text).input_ids for text in texts]
    unigram = -sum(math.log2((counts[i] + 1) / total) for row in rows for i in row[1:]) / size
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    with torch.inference_mode():
        logits = model(**batch).logits[:, :-1]
    labels = batch["input_ids"][:, 1:]
    scores = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    measured = -float((scores * batch["attention_mask"][:, 1:]).sum()) / math.log(2) / size
    assert measured < unigram
    assert measured == pytest.approx(card[language]["new bits"], abs=0.002)
    assert measured < card[language]["old bits"]


def test_copies_sentences_and_spans_it_has_never_seen(card):
    assert min(row["new sentences"] for row in card.values()) >= 90
    assert min(row["new spans"] for row in card.values()) >= 60
