"""Means over a sentence's own tokens, whatever the tokenizer adds and the configuration says."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from midalign import bases
from midalign.align.packing import attention_windows, model_inputs
from midalign.align.sentences import added_tokens, sentence_ids, sink_tokens
from midalign.analyze import states
from midalign.evaluate import retrieval
from midalign.train import recipe as recipes
from midalign.train.stream import Pair, PairSamples, Stream, TaskSamples, Tokens
from midalign.train.trainer import AlignmentTrainer

FORMS = {
    "BOS": ("<|begin|> $A", 1, 0),
    "another first token": ("<|end|> $A", 1, 0),
    "two first tokens": ("<|pad|> <|begin|> $A", 2, 0),
    "BOS and EOS": ("<|begin|> $A <|end|>", 1, 1),
    "nothing": ("$A", 0, 0),
}
TEXTS = ["wecke mich um neun Uhr", "spiel Musik", "wake me up at nine in the morning", "play music"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=7,  # which no tokenizer here writes, as in distilled Qwen models
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=list(FORMS))
def form(request):
    """A tokenizer, and how many tokens it writes before and after a text."""
    template, before, after = FORMS[request.param]
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    specials = [("<|begin|>", 0), ("<|end|>", 1), ("<|pad|>", 2)]
    specials = [(token, tokenizer.convert_tokens_to_ids(token)) for token, _ in specials]
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single=template, special_tokens=specials)
    changed = copy.deepcopy(tokenizer)
    changed._tokenizer = backend
    return changed, before, after


def mean_alone(model, tokenizer, before, text, layer):
    """By transformers' hidden states of the sentence alone."""
    whole = tokenizer(text)["input_ids"]
    count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        hidden = model(torch.tensor([whole]), output_hidden_states=True).hidden_states[layer][0]
    own = hidden[before : before + count]
    return own.mean(0) if before else own[1:].mean(0)


def test_added_tokens_are_counted_by_place(form):
    tokenizer, before, after = form
    assert added_tokens(tokenizer) == (before, after)
    assert sink_tokens(tokenizer) == max(before, 1)
    (ids,) = sentence_ids(tokenizer, TEXTS[:1])
    assert ids == tokenizer(TEXTS[0])["input_ids"][: len(ids)]
    assert len(ids) == before + len(tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert sentence_ids(tokenizer, TEXTS[:1], before + 2) == [ids[: before + 2]]


def test_evaluation_and_analysis_pool_a_sentences_own_tokens(model, form):
    tokenizer, before, _ = form
    pooled = retrieval.pooled(model, tokenizer, TEXTS, [1, 2])
    for place, layer in enumerate((1, 2)):
        for number, text in enumerate(TEXTS):
            expected = mean_alone(model, tokenizer, before, text, layer)
            torch.testing.assert_close(pooled[place, number], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("width", [None, 64])
def test_training_pools_a_sentences_own_tokens(model, form, width):
    tokenizer, before, _ = form
    recipe = recipes.load("mini")
    tokens = Tokens(tokenizer, 64)
    pairs = PairSamples(recipe, recipe.align, tokens)
    stream = Stream(1, [], TaskSamples(recipe, tokens), pairs, width=width)
    drawn = [Pair(0, foreign, english) for foreign, english in zip(TEXTS[:2], TEXTS[2:], strict=True)]
    rows = stream.contrastive(drawn, 1.0)["rows"]
    windows = attention_windows(model) if width else None
    trainer = SimpleNamespace(
        align=recipe.align, layers=[2], inputs_of=lambda rows: model_inputs(rows, windows, torch.float32)
    )
    with torch.no_grad():
        pooled, _, _ = AlignmentTrainer.embed(trainer, model, rows, None, len(TEXTS))
    for number, text in enumerate(TEXTS):
        expected = mean_alone(model, tokenizer, before, text, 2)
        torch.testing.assert_close(pooled[number, 0], expected, rtol=1e-4, atol=1e-6)


def test_a_sentence_of_one_token_keeps_it(model, form):
    tokenizer, before, _ = form
    text = "play"
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
    with torch.no_grad():
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        expected = model(ids, output_hidden_states=True).hidden_states[1][0, before]
    found = retrieval.pooled(model, tokenizer, [text, *TEXTS], [1])
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=1e-6)


def test_measures_over_other_tokens_have_another_name(model, form):
    """Records compare by it, and those of before left out the configuration's BOS alone."""
    tokenizer, before, after = form
    first = tokenizer("play")["input_ids"][0]
    for bos in (first, 7):
        config = copy.copy(model.config)
        config.bos_token_id = bos
        same = bos == first and (before, after) == (1, 0)
        assert (retrieval.pooling(tokenizer, config) == retrieval.POOLING) == same


def test_cached_states_of_earlier_pooling_are_not_read(tmp_path, monkeypatch):
    texts = {"en": ["play music"], "de": ["spiel Musik"]}
    computed = []
    monkeypatch.setattr(states, "share", lambda _, missing, *__: computed.append(missing))
    monkeypatch.setattr("midalign.device.has_bf16", lambda: False)
    key = " ".join([*states.model_digests(bases.resolve("mini"), None), "float32"])
    earlier = states.StateStore(tmp_path, key, texts)
    for code in texts:
        earlier.write(code, torch.zeros(1, 1, 1))
    states.embed_languages("mini", None, texts, tmp_path, ["cpu"], lambda *_: None)
    assert computed == [["en", "de"]]
