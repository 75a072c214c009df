"""The stream of batches: what stands in an update, and that nothing but seed and update decides it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from midalign import bases, harness
from midalign.data import mini, pairs
from midalign.errors import DataError, RecipeError, TaskError
from midalign.train import recipe as recipes
from midalign.train.stream import (
    IGNORED,
    PairSamples,
    Sample,
    Stream,
    TaskSamples,
    Tokens,
    check_roles,
    epoch_positions,
    pad_left,
)


@pytest.fixture(scope="module")
def recipe():
    return recipes.load("mini", ["samples_per_update=8", "align.pairs_per_update=8", "align.copy_samples=4"])


@pytest.fixture(scope="module")
def tokens(recipe):
    return Tokens(AutoTokenizer.from_pretrained(bases.resolve("mini")), recipe.max_tokens)


@pytest.fixture(scope="module")
def stream(recipe, tokens):
    return Stream(3, 50, TaskSamples(recipe, tokens), PairSamples(recipe, recipe.align, tokens))


@given(st.integers(0, 50), st.integers(1, 40), st.integers(0, 5), st.integers(0, 200))
def test_positions_are_one_endless_sequence_of_epochs(count, total, seed, start):
    whole = epoch_positions(seed, 0, start + count, total)
    assert epoch_positions(seed, start, count, total) == whole[start:]
    for epoch in range(len(whole) // total):
        assert sorted(whole[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_epochs_have_orders_of_their_own():
    first, second = epoch_positions(3, 0, 20, 20), epoch_positions(3, 20, 20, 20)
    assert first != second
    assert first != epoch_positions(4, 0, 20, 20)


def test_an_english_sentence_is_drawn_once_even_where_languages_share_it(recipe, tokens):
    samples = PairSamples(recipe, recipe.align, tokens)
    samples.pairs = [[("eins", "one"), ("zwei", "two")], [("bir", "one"), ("iki", "two")]]
    for update in range(20):
        assert sorted(english for _, english in samples.draw(3, update)) == ["one", "two"]


def test_a_batch_depends_on_seed_and_update_alone(recipe, tokens, stream):
    fresh = Stream(3, 50, TaskSamples(recipe, tokens), PairSamples(recipe, recipe.align, tokens))
    for micro_step in (41, 40, 7):
        for name, part in fresh[micro_step].items():
            for key, tensor in part.items():
                assert torch.equal(tensor, stream[micro_step][name][key])
    assert not torch.equal(stream[0]["task"]["input_ids"], stream[2]["task"]["input_ids"])


def test_arms_see_the_same_task_samples_in_the_same_order(recipe, tokens, stream):
    baseline = Stream(3, 50, TaskSamples(recipe, tokens), None)
    assert len(stream) == 2 * len(baseline) == 100
    for update in (0, 1, 30):
        for key, tensor in baseline[update]["task"].items():
            assert torch.equal(tensor, stream[2 * update]["task"][key])


def test_prompts_are_those_of_lm_eval_and_answers_follow_with_end_of_sequence(recipe, tokens, stream):
    tokenizer = tokens.tokenizer
    task = harness.load(["midalign_mini_slot_ru"])["midalign_mini_slot_ru"]
    rendered = {}
    for document in task.training_docs():
        prompt = harness.prompt(task, document)
        rendered[tuple(tokenizer(prompt)["input_ids"])] = f" {document['target']}"
    seen = 0
    for update in range(6):
        batch = stream[2 * update]["task"]
        for ids, mask, labels in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            answer = labels[labels != IGNORED].tolist()
            real = ids[mask == 1].tolist()
            assert real[-len(answer) :] == answer
            target = rendered.get(tuple(real[: -len(answer)]))
            if target is not None:
                seen += 1
                assert answer[-1] == tokenizer.eos_token_id
                assert tokenizer.decode(answer[:-1]) == target
    assert seen > 3  # a quarter of the samples is Russian


def test_left_padding(monkeypatch):
    monkeypatch.setattr("midalign.train.stream.MULTIPLE", 1)

    batch = pad_left([Sample([5, 6, 7], [8, 2]), Sample([5], [9, 9, 9, 2])], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 2], [5, 9, 9, 9, 2]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 8, 2], [9, 9, 9, 2]]
    batch = pad_left([Sample([5], [2]), Sample([5, 6], [7, 2])], pad=0)
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    monkeypatch.setattr("midalign.train.stream.MULTIPLE", 4)
    batch = pad_left([Sample([5, 6, 7], [8, 2]), Sample([5], [2])], pad=0)
    assert batch["input_ids"].tolist() == [[0, 0, 0, 5, 6, 7, 8, 2], [0, 0, 0, 0, 0, 0, 5, 2]]
    assert batch["labels"].tolist() == [[8, 2], [IGNORED, 2]]


def test_pairs_translate_each_other_and_english_occurs_once(recipe, stream):
    known = {
        language: {item.id: item.utterance for item in mini.items(language, "train")}
        for language in ["en", *recipe.aligned]
    }
    parallel = {(known[code][id], known["en"][id]) for code in recipe.aligned for id in known["en"]}
    languages = set()
    for update in range(20):
        drawn = stream.aligned.draw(3, update)
        assert len(drawn) == len({english for _, english in drawn}) == 8
        assert set(drawn) <= parallel
        languages |= {
            code for code in recipe.aligned for foreign, _ in drawn if foreign in known[code].values()
        }
    assert languages == set(recipe.aligned)


def test_pairs_carry_no_annotation_and_no_test_sentence(recipe):
    for code in recipe.aligned:
        sentences = {side for pair in pairs.pairs("mini", code) for side in pair}
        assert not any("[" in sentence for sentence in sentences)
        for split in ("validation", "test"):
            assert not sentences & {item.utterance for item in mini.items(code, split)}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["supervised=[en, es, rus]"], TaskError, "no language 'rus'. Did you mean ru"),
        (["aligned=[]"], RecipeError, "arm aligned aligns, but the recipe names no aligned language"),
        (["align.pairs=tatoba"], DataError, "Did you mean tatoeba"),
        (["task=midalign_mini_slots"], TaskError, "Did you mean midalign_mini_slot"),
    ],
)
def test_roles_are_checked_before_anything_heavy(overrides, error, message):
    with pytest.raises(error, match=message):
        check_roles(recipes.load("mini", overrides))


def test_too_few_pairs_for_one_update_are_refused(tmp_path):
    for language in ("de", "tr", "hi"):  # five English sides in all: two of the pairs share theirs
        (tmp_path / f"{language}.tsv").write_text(f"{language} one\tone\n{language} two\ttwo {language}\n")
    (tmp_path / "hi.tsv").write_text("hi one\tone\nhi two\ttwo hi\nhi three\tthree\n")
    files = f"align.pairs={tmp_path}/{{language}}.tsv"
    check_roles(recipes.load("mini", [files, "align.pairs_per_update=5"]))
    with pytest.raises(RecipeError, match=r"draws 6 pairs .* has 5.*align.pairs_per_update=5"):
        check_roles(recipes.load("mini", [files, "align.pairs_per_update=6"]))
