"""The mini base's pretraining: pure document stream, valid exercises, held-out text, exact resume."""

import json
import random
import signal
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from mini_base import documents, exercises, texts, training  # noqa: E402

SENTENCE = 'Wake Anna "softly" at half past nine, please, and play jazz in the kitchen.'
OTHER = "The train to New York leaves from platform two."


@pytest.fixture(scope="module")
def corpus():
    """Return a corpus of the mini benchmark's training split alone."""
    sentences = {language: texts.mini_utterances(language, "train")[:60] for language in texts.LANGUAGES}
    meanings = [dict(zip(sentences, row, strict=True)) for row in zip(*sentences.values(), strict=True)]
    return texts.Corpus(sentences, sentences, sentences, meanings, meanings, counts={}, excluded=0)


@pytest.fixture
def small_shards(monkeypatch):
    """Make shards of a few hundred documents."""
    monkeypatch.setattr(documents, "SHARD_DOCUMENTS", 300)


def test_shard_depends_on_seed_and_number_alone(corpus, small_shards):
    stream = documents.DocumentStream(corpus, seed=1)
    later = documents.DocumentStream(corpus, seed=1)
    assert stream.shard(0) != stream.shard(1)
    assert later.shard(1) == stream.shard(1)
    assert documents.DocumentStream(corpus, seed=2).shard(0) != stream.shard(0)


@pytest.mark.parametrize("seed", range(40))
def test_json_exercises_are_valid_json_with_values_of_the_sentence(seed):
    document = exercises.json_from_tags(SENTENCE, OTHER, "en", random.Random(seed))
    blocks = [block.split("\n", 1) for block in document.split("\n\n")]
    for question, answer in blocks:
        _, _, value = answer.partition(": ")
        for leaf in _leaves(json.loads(value)):
            assert leaf in question


def _leaves(value):
    """Yield the texts of a JSON value, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if " " in key:
                yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif " " in value:  # a single word may be a made-up title
        yield value


@pytest.mark.parametrize("seed", range(20))
def test_marked_spans_are_those_between_the_marks(seed):
    question, _, answer = exercises.copy_marked(OTHER, OTHER, "en", random.Random(seed)).partition(
        "\nMarked: "
    )
    between = [exercises.strip_punctuation(span) for span in question.split("*")[1::2]]
    assert answer.split("; ") == (between or ["None"])


def test_made_up_keys_are_no_label_of_a_benchmark():
    from midalign.data import mini

    draw = random.Random(0)
    keys = {exercises.draw_key(draw) for _ in range(20_000)}
    assert not keys & {*mini.labels("slot"), *mini.labels("intent")}


@pytest.mark.data
@pytest.mark.slow
def test_no_development_or_test_text_is_trained_on(shared_data):
    corpus = texts.read_corpus(shared_data)
    held_out = {texts.text_key(text) for text in texts.held_out_texts(shared_data)}
    assert len(held_out) > 100_000
    trained = [text for language in texts.LANGUAGES for text in corpus.sentences[language]]
    trained += [text for meaning in corpus.meanings for text in meaning.values()]
    assert not [text for text in trained if texts.text_key(text) in held_out]
    utterances = [*corpus.massive.values(), *corpus.mini.values()]
    assert {text for lines in utterances for text in lines} <= set(trained)


@pytest.fixture
def signal_handlers():
    """Restore the handlers that training replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def tokenizer(small_shards, signal_handlers, monkeypatch):
    """Return the mini base's tokenizer, and make models and rows small."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(training, "CONFIG", training.CONFIG | small | heads)
    monkeypatch.setattr(training, "BLOCK", 64)
    monkeypatch.setattr(training, "CONTEXT", 128)
    monkeypatch.setattr(training.shutil, "which", lambda _: None)  # without a compiler, nothing is compiled
    return Tokenizer.from_file(str(ROOT / "midalign" / "bases" / "mini" / "tokenizer.json"))


def test_run_starts_from_the_given_weights(corpus, tokenizer, tmp_path):
    start = training.LlamaForCausalLM(training.LlamaConfig(**training.CONFIG))
    before = {name: weight.clone() for name, weight in start.named_parameters()}
    still = training.Settings(tokens=256, batch_tokens=256, learning_rate=0.0)
    model, state = training.train(documents.DocumentStream(corpus, 0), tokenizer, still, tmp_path, start)
    assert state.updates == 1
    for name, weight in model.named_parameters():
        assert weight.equal(before[name]), name


def test_resumed_run_has_identical_weights(corpus, tokenizer, tmp_path, monkeypatch):
    """A run that SIGTERM interrupts after four of twelve updates ends like an uninterrupted one."""
    settings = training.Settings(tokens=12 * 256, batch_tokens=256)
    stream = documents.DocumentStream(corpus, seed=0)
    folders = [tmp_path / "whole", tmp_path / "interrupted"]
    for folder in folders:
        folder.mkdir()
    whole, _ = training.train(stream, tokenizer, settings, folders[0])

    def interrupt(updates, progress, rate=training.rate_factor):
        if updates == 3:
            signal.raise_signal(signal.SIGTERM)
        return rate(updates, progress)

    with monkeypatch.context() as patch:
        patch.setattr(training, "rate_factor", interrupt)
        with pytest.raises(SystemExit, match="Interrupted after update 4"):
            training.train(stream, tokenizer, settings, folders[1])
    resumed, state = training.train(stream, tokenizer, settings, folders[1])

    assert state.updates == 12
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert weight.equal(other), name
    with pytest.raises(SystemExit, match="other settings"):
        training.train(stream, tokenizer, training.Settings(tokens=1), folders[1])
