"""The stream of batches: what stands in an update, and that nothing but seed and update decides it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from midalign import bases, harness
from midalign.align.head import IGNORED
from midalign.align.packing import attention_windows, model_inputs
from midalign.align.pooling import last_by_owner
from midalign.align.rows import PADDING, SHARED, WIDTH
from midalign.align.trunk import states_at_each
from midalign.data import massive, mini, pairs
from midalign.errors import DataError, RecipeError, TaskError
from midalign.train.recipe import load_recipe
from midalign.train.recipe_checks import check_roles
from midalign.train.samples import SampleTokenizer, TokenizedSample
from midalign.train.schedule import plan_updates
from midalign.train.sentence_pairs import Pair, PairSamples
from midalign.train.stream import KINDS, Stream, lay_out_answers
from midalign.train.task_samples import TaskSamples, epoch_positions

SMALL = ["samples_per_update=8", "align.pairs_per_update=8", "align.copy_samples=4"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("mini", SMALL)


@pytest.fixture(scope="module")
def tokens(recipe):
    return SampleTokenizer(AutoTokenizer.from_pretrained(bases.resolve("mini")), recipe.max_tokens)


@pytest.fixture(scope="module")
def stream(recipe, tokens):
    return made(recipe, tokens)


def made(recipe, tokens, arm="aligned", **options):
    align = recipe.align_of(arm)
    pairs = PairSamples(recipe, align, tokens) if align else None
    options = {"width": WIDTH, **options}
    return Stream(3, plan_updates(50, align), TaskSamples(recipe, tokens), pairs, **options)


def flat(item):
    """Every tensor of an update by the way to it."""
    found = {}
    for key, value in item.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        found.update(
            {(key, *deeper): t for deeper, t in flat(value).items()}
            if isinstance(value, dict)
            else {(key,): value}
        )
    return found


def read(batch):
    """(prompt and answer ids, answer ids) of every sample, by its number."""
    found = {}
    rows = zip(*(batch[name].tolist() for name in ("input_ids", "owner", "labels")), strict=True)
    for ids, owner, labels in rows:
        shared = [token for token, own in zip(ids, owner, strict=True) if own == SHARED]
        for member in {own for own in owner if own >= 0}:
            places = [i for i, own in enumerate(owner) if own == member]
            answer = [labels[i] for i in places if labels[i] != IGNORED]
            assert [ids[i + 1] for i in places if labels[i] != IGNORED] == answer
            found[member] = shared + [ids[i] for i in places], answer
    return [found[member] for member in sorted(found)]


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
    samples.pairs = [
        [Pair(0, "eins", "one"), Pair(0, "zwei", "two")],
        [Pair(1, "bir", "one"), Pair(1, "iki", "two")],
    ]
    for update in range(20):
        assert sorted(pair.english for pair in samples.draw(3, update)) == ["one", "two"]


def test_an_update_depends_on_seed_and_number_alone(recipe, tokens, stream):
    fresh = made(recipe, tokens)
    for update in (41, 40, 7):
        again, first = flat(fresh[update]), flat(stream[update])
        assert again.keys() == first.keys()
        assert all(torch.equal(torch.as_tensor(again[key]), torch.as_tensor(first[key])) for key in first)
    assert read(stream[0]["answers"]) != read(stream[1]["answers"])


def test_arms_see_the_same_task_samples_in_the_same_order(recipe, tokens, stream):
    baseline = made(recipe, tokens, "baseline")
    assert len(stream) == len(baseline) == 50
    for update in (0, 1, 30):
        assert read(baseline[update]["answers"]) == read(stream[update]["answers"])[:8]


def test_processes_share_an_update(recipe, tokens, stream):
    """Labels, weights and pairs of two processes are those of one, and each half has half of the samples."""
    parts = [made(recipe, tokens, rank=rank, world=2)[5] for rank in (0, 1)]
    whole = stream[5]
    assert [part["tokens"] for part in parts] == [whole["tokens"]] * 2
    each = [read(part["answers"]) for part in parts]
    assert [len(one) for one in each] == [6, 6]
    expected = read(whole["answers"])
    assert each[0][:4] + each[1][:4] + each[0][4:] + each[1][4:] == expected
    weights = [part["answers"]["weights"].sum() for part in parts]
    assert sum(weights) == pytest.approx(float(whole["answers"]["weights"].sum()))
    sides = [
        read({**part["pairs"][0]["rows"], "labels": part["pairs"][0]["rows"]["input_ids"] * 0 + IGNORED})
        for part in parts
    ]
    sentences = read(
        {**whole["pairs"][0]["rows"], "labels": whole["pairs"][0]["rows"]["input_ids"] * 0 + IGNORED}
    )
    assert sides[0][:4] + sides[1][:4] + sides[0][4:] + sides[1][4:] == sentences
    assert torch.equal(parts[1]["pairs"][0]["same"], whole["pairs"][0]["same"])


def test_what_labels_count(recipe, stream):
    """The task's mean counts once, that of four copies as four of eight samples."""
    batch = stream[3]["answers"]
    weights = {kind: float(batch["weights"][batch["kinds"] == kind].sum()) for kind in (0, 1)}
    assert weights == {0: pytest.approx(1), 1: pytest.approx(4 / 8)}
    assert torch.equal(batch["weights"] != 0, batch["labels"] != IGNORED)


@pytest.mark.parametrize("changes", [{}, {"alternate": "micro", "cycles": 2}, {"alternate": "update"}])
def test_a_copy_counts_as_much_as_a_task_sample_under_every_schedule(recipe, tokens, changes):
    align = recipe.align.model_dump() | changes
    scheduled = made(recipe.model_copy(update={"arms": {"aligned": align}}), tokens)
    totals = {"task": 0.0, "copy": 0.0}
    for update in (scheduled[0], scheduled[1]):  # "update" has the pairs in the second
        for kind in totals:
            rows = update["answers"]["kinds"] == KINDS.index(kind)
            totals[kind] += float(update["answers"]["weights"][rows].sum())
    assert totals["copy"] / totals["task"] == pytest.approx(4 / 8)


def test_prompts_are_those_of_lm_eval_and_answers_follow_with_end_of_sequence(recipe, tokens, stream):
    tokenizer = tokens.tokenizer
    task = harness.load_tasks(["midalign_mini_slot_ru"])["midalign_mini_slot_ru"]
    rendered = {}
    for document in task.training_docs():
        prompt = harness.prompt(task, document)
        rendered[tuple(tokenizer(prompt)["input_ids"])] = f" {document['target']}"
    seen = 0
    for update in range(6):
        for ids, answer in read(stream[update]["answers"]):
            assert ids[-len(answer) :] == answer
            target = rendered.get(tuple(ids[: -len(answer)]))
            if target is not None:
                seen += 1
                assert answer[-1] == tokenizer.eos_token_id
                assert tokenizer.decode(answer[:-1]) == target
    assert seen > 3  # a quarter of the samples is Russian


def test_one_sample_a_row():
    samples = [TokenizedSample([5, 6, 7], [8, 2]), TokenizedSample([5], [9, 2])]
    batch = lay_out_answers({"task": samples}, [0.5, 0.25], 0, width=None)
    assert batch["input_ids"][:, :6].tolist() == [
        [5, 9, 2, 0, 0, 0],
        [5, 6, 7, 8, 2, 0],
    ]  # the shortest first
    assert batch["owner"][:, :6].tolist() == [[1] * 3 + [PADDING] * 3, [0] * 5 + [PADDING]]
    assert batch["labels"][:, :4].tolist() == [[9, 2, IGNORED, IGNORED], [IGNORED, IGNORED, 8, 2]]
    assert batch["weights"][:, :4].tolist() == [[0.25, 0.25, 0, 0], [0, 0, 0.5, 0.5]]


def test_pairs_translate_each_other_and_english_occurs_once(recipe, stream):
    known = {
        language: {item.id: item.utterance for item in mini.items(language, "train")}
        for language in ["en", *recipe.aligned]
    }
    parallel = {(known[code][id], known["en"][id]) for code in recipe.aligned for id in known["en"]}
    languages = set()
    for update in range(20):
        drawn = stream.aligned.draw(3, update)
        assert len(drawn) == len({pair.english for pair in drawn}) == 8
        assert {(pair.foreign, pair.english) for pair in drawn} <= parallel
        languages |= {recipe.aligned[pair.language] for pair in drawn}
    assert languages == set(recipe.aligned)


def test_pairs_carry_no_annotation_and_no_test_sentence(recipe):
    for code in recipe.aligned:
        sentences = {side for pair in pairs.read_pairs("mini", code) for side in pair}
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
        check_roles(load_recipe("mini", overrides))


ENGLISH = ("one", "two", "three", "four", "five", "six")


@pytest.fixture
def three_languages(tmp_path):
    """Files of pairs in which German has all of ENGLISH, Turkish all but the last and Hindi the first two,
    and German says "five" and "six" alike."""
    for code, count in (("de", 6), ("tr", 5), ("hi", 2)):
        lines = [f"{code} {'five' if text == 'six' else text}\t{text}\n" for text in ENGLISH[:count]]
        (tmp_path / f"{code}.tsv").write_text("".join(lines))
    return f"align.pairs={tmp_path}/{{language}}.tsv"


def samples_of(tokens, *changes):
    recipe = load_recipe("mini", changes)
    return PairSamples(recipe, recipe.align, tokens)


def test_a_number_of_pairs_is_the_same_sentences_in_all_languages_and_part_of_a_larger_one(tokens):
    every = samples_of(tokens, "align.held_out=100")
    held_out = {side for own in every.held_out for pair in own for side in pair.sides}
    before = [set()] * 3
    for number in (1, 40, 1000):
        samples = samples_of(tokens, "align.held_out=100", f"align.pairs_a_language={number}")
        assert samples.held_out == every.held_out
        assert [len(own) for own in samples.pairs] == [number] * 3
        english = [{pair.english for pair in own} for own in samples.pairs]
        assert english[0] == english[1] == english[2]
        assert not any(held_out.intersection(pair.sides) for own in samples.pairs for pair in own)
        assert all(less < set(own) for less, own in zip(before, samples.pairs, strict=True))
        before = [set(own) for own in samples.pairs]
        drawn = {pair for batch in range(50) for pair in samples.draw(1, batch)}
        assert drawn <= set().union(*before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["align.pairs_a_language=3"], r"3 pairs per language, .* has 2 of hi.*pairs_a_language=2, or null"),
        (["align.held_out=2"], "2 held out, has no pairs of hi to train on"),
        (["align.multiway=true", "align.pairs_per_update=6"], "draws 6 pairs .* has 5"),
    ],
)
def test_fewer_pairs_than_asked_for_are_refused(three_languages, changes, message):
    check_roles(load_recipe("mini", [three_languages, "align.pairs_per_update=2"]))
    with pytest.raises(RecipeError, match=message):
        check_roles(load_recipe("mini", [three_languages, "align.pairs_per_update=2", *changes]))


def test_multiway_pairs_are_all_that_the_source_has(three_languages, tokens):
    """Every pair of versions of an English sentence by brute force, none else, and no meaning twice."""
    versions = {text: {f"de {text}", f"tr {text}", text} for text in ENGLISH[:4]}
    versions |= {"five": {"de five", "tr five", "five"}, "six": {"de five", "six"}}
    for text in ENGLISH[:2]:
        versions[text].add(f"hi {text}")
    expected = {
        (one, other)
        for text, own in versions.items()
        for one in own
        for other in own
        if one not in (other, text)
    }
    samples = samples_of(tokens, three_languages, "align.pairs_per_update=4", "align.multiway=true")
    found = set()
    for batch in range(300):
        drawn = samples.draw(5, batch)
        assert len(drawn) == 4
        # German says both in one word: all that is "five" or "six" says the same.
        said = [{pair.english, "five"} if pair.english == "six" else {pair.english} for pair in drawn]
        assert len(set().union(*said)) == sum(map(len, said))
        found.update(pair.sides for pair in drawn)
    assert found == expected


def test_no_sentence_of_a_multiway_batch_translates_one_of_another_pair(tokens):
    """As the source has it, by looking up every two: the negatives are none of each other's translations."""
    samples = samples_of(tokens, "align.multiway=true")
    translates = {frozenset(pair.sides) for own in samples.pairs for pair in own}
    third = 0
    for batch in range(10):
        drawn = samples.draw(2, batch)
        third += sum(pair.partner is not None for pair in drawn)
        for number, one in enumerate(drawn):
            english = {p.english for own in samples.pairs for p in own if set(p.sides) & set(one.sides)}
            for other in drawn[:number]:
                assert set(one.sides).isdisjoint(other.sides)
                assert not any(frozenset((e, side)) in translates for e in english for side in other.sides)
                assert english.isdisjoint(other.sides)
    assert 0.5 < third / 320 < 0.8  # of three versions besides its own, two are not English


def test_sides_of_multiway_pairs_are_what_is_aligned(recipe, tokens, stream):
    drawn = [Pair(0, "eins", "one", "bir"), Pair(1, "iki", "two")]
    rows = stream.contrastive(drawn, 1.0)
    batch = {**rows["rows"], "labels": rows["rows"]["input_ids"] * 0 + IGNORED}
    texts = [tokens.tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in read(batch)]
    assert texts == ["eins", "iki", "bir", "two"]


@pytest.fixture(scope="module")
def in_prompt(recipe, tokens):
    return made(aligned_in_prompt(recipe), tokens)


def aligned_in_prompt(recipe, **changes):
    align = recipe.align.model_copy(update={"context": "prompt"})
    return recipe.model_copy(update={"align": align, **changes})


def pooled_texts(rows, tokenizer):
    """The text of the tokens that each sentence's mean is over, by its number."""
    texts = {}
    for ids, words, owner in zip(rows["input_ids"], rows["words"], rows["owner"], strict=True):
        for member in set(owner[owner >= 0].tolist()):
            texts[member] = tokenizer.decode(ids[words & (owner == member)]).strip()
    return [texts[member] for member in sorted(texts)]


def test_pairs_in_the_prompt_are_what_lm_eval_sends_for_their_sentences(tokens, in_prompt):
    drawn = [Pair(0, "Wecke mich um 5.", "Wake me at 5."), Pair(1, "Saat kaç?", "What time is it?")]
    rows = in_prompt.contrastive(drawn, 1.0)["rows"]
    batch = {**rows, "labels": rows["input_ids"] * 0 + IGNORED}
    (task,) = harness.load_tasks(["midalign_mini_slot_en"]).values()
    document = next(iter(task.training_docs()))
    sentences = [pair.sides[side] for side in (0, 1) for pair in drawn]
    prompts = [harness.prompt(task, {**document, "utterance": sentence}) for sentence in sentences]
    assert [ids for ids, _ in read(batch)] == [tokens.tokenizer(prompt)["input_ids"] for prompt in prompts]


@pytest.mark.parametrize("width", [None, WIDTH])
@pytest.mark.parametrize(
    "sides", [[("Tom schläft.", "Tom sleeps.")], [("Ja.", "Yes."), ("Tom ist da.", "Tom is here.")]]
)
def test_a_mean_in_the_prompt_begins_with_the_sentence_whatever_else_is_in_the_batch(
    recipe, tokens, width, sides
):
    stream = made(aligned_in_prompt(recipe), tokens, width=width)
    rows = stream.contrastive([Pair(0, *pair) for pair in sides], 1.0)["rows"]
    sentences = [pair[side] for side in (0, 1) for pair in sides]
    assert pooled_texts(rows, tokens.tokenizer) == [f"{sentence}\nSlots:" for sentence in sentences]


def test_a_long_sentence_loses_its_beginning_and_the_prompt_stays(recipe):
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    short = SampleTokenizer(tokenizer, 80)
    stream = made(aligned_in_prompt(recipe, max_tokens=80), short)
    rows = stream.contrastive([Pair(0, "Wecke mich. " * 40, "Wake me.")], 1.0)["rows"]
    cut, whole = pooled_texts(rows, tokenizer)
    assert cut.endswith("Wecke mich. \nSlots:")
    assert whole == "Wake me.\nSlots:"
    assert len(stream.task.prompt_ids("Wecke mich. " * 40)) == 80
    assert stream.task.prompt_ids("Wake me.")[:10] == stream.task.prompt_ids("Wecke mich. " * 40)[:10]
    with pytest.raises(RecipeError, match=r"prompt takes .* max_tokens is 16"):
        made(aligned_in_prompt(recipe), SampleTokenizer(tokenizer, 16)).contrastive([Pair(0, "a", "b")], 1.0)


def test_a_mean_over_the_whole_prompt_is_rejected():
    with pytest.raises(RecipeError, match=r"set include_bos=false, or pooling=last"):
        load_recipe("mini", ["preset=paper", "align.context=prompt"])
    load_recipe("mini", ["preset=paper", "align.context=prompt", "align.pooling=last"])


def test_states_of_a_prompt_are_those_of_its_own_forward(recipe, tokens, in_prompt):
    """Packed behind a common beginning or alone in a row: the last token's state is the same."""
    model = AutoModelForCausalLM.from_pretrained(
        bases.resolve("mini"), attn_implementation="eager", dtype=torch.float32
    )
    drawn = in_prompt.aligned.draw(3, 0)
    rows = in_prompt.contrastive(drawn, 1.0)["rows"]
    inputs = model_inputs(rows, attention_windows(model), torch.float32)
    with torch.no_grad():
        (states,) = states_at_each(model, inputs, [7])
        pooled = last_by_owner(states, rows["owner"], 2 * len(drawn))
        for number, sentence in enumerate([pair.sides[side] for side in (0, 1) for pair in drawn]):
            ids = torch.tensor([in_prompt.task.prompt_ids(sentence)])
            alone = model(ids, output_hidden_states=True).hidden_states[7][0, -1]
            torch.testing.assert_close(pooled[number], alone, rtol=1e-4, atol=1e-4)


def test_alignment_in_the_prompt_of_a_task_without_an_input_is_rejected():
    with pytest.raises(RecipeError, match="lm_eval:mgsm_direct_en has no utterance or text"):
        harness.input_field("lm_eval:mgsm_direct_en")
    changes = ["task=midalign_mini_mt", "align.context=prompt", "supervised=[es, ru]"]
    with pytest.raises(RecipeError, match=r"Set align\.context=sentence"):
        check_roles(load_recipe("mini", changes))


def test_switched_samples_are_english_ones_with_words_and_values_of_the_pairs(tokens):
    recipe = load_recipe("mini", ["align.switched_samples=6", "samples_per_update=8", "updates=50"])
    stream = made(recipe, tokens)
    update = flat(stream[3])
    assert (update["answers", "kinds"] == KINDS.index("switched")).any()
    again = flat(made(recipe, tokens)[3])
    assert all(torch.equal(update[key], again[key]) for key in update if key[0] == "answers")

    drawn = [sample for batch in range(20) for sample in stream.switched.draw(3, batch, 6)]
    texts = [tokens.tokenizer.decode(sample.prompt).split("Utterance: ")[1] for sample in drawn]
    answers = [tokens.tokenizer.decode(sample.target[:-1]).strip() for sample in drawn]
    labels = set(mini.labels("slot"))
    for text, answer in zip(texts, answers, strict=True):
        for slot in [] if answer == "None" else answer.split("; "):
            label, value = slot.split(": ", 1)
            assert label in labels
            assert value in text
    foreign = {word for group in stream.aligned.pairs for pair in group for word in pair.foreign.split()}
    english = {word for item in mini.items("en", "train") for word in item.utterance.split()}
    words = [word for text in texts for word in text.split()]
    assert sum(word in foreign - english for word in words) > len(words) / 2
    assert not {item.utterance for item in mini.items("de", "train")}.intersection(texts)


def reject(recipe, tokens):
    """Raise what the checks before training, or the first update, raise."""
    check_roles(recipe)
    made(recipe, tokens)[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["supervised=[es, ru]"], "needs English among the supervised languages"),
        (["aligned=[ja]"], "no aligned language has a lexicon of 20 phrases"),
        (["task=midalign_mini_json"], "align.switched_samples is for slot filling"),
    ],
)
def test_switched_samples_that_cannot_be_made_are_rejected(overrides, message, tokens):
    with pytest.raises(RecipeError, match=message):
        reject(load_recipe("mini", ["align.switched_samples=4", *overrides]), tokens)


def test_pairs_of_a_labelled_share_translate_no_labelled_sentence(tokens):
    recipe = load_recipe("mini", ["labelled_share=0.3"])
    stream = made(recipe, tokens)
    labelled = {doc["utterance"] for task, doc in stream.task.every if task.config.task.endswith("_en")}
    paired = {pair.english for group in stream.aligned.pairs for pair in group}
    assert 0.2 < len(labelled) / 1500 < 0.4
    assert not labelled & paired
    assert labelled | paired == {item.utterance for item in mini.items("en", "train")}
    ids = [
        {doc["id"] for task, doc in stream.task.every if task.config.task.endswith(code)}
        for code in ("en", "zh")
    ]
    assert ids[0] == ids[1]


def test_multiway_without_shared_sentences_is_refused_and_with_few_warned_of(tmp_path, caplog):
    for code in ("de", "tr", "hi"):
        (tmp_path / f"{code}.tsv").write_text("".join(f"{code} {i}\t{code} {i} en\n" for i in range(9)))
    changes = [f"align.pairs={tmp_path}/{{language}}.tsv", "align.multiway=true", "align.pairs_per_update=4"]
    with pytest.raises(RecipeError, match="has translations in two aligned languages"):
        check_roles(load_recipe("mini", changes))
    (tmp_path / "hi.tsv").write_text("hi 0\tde 0 en\n")
    check_roles(load_recipe("mini", changes))
    assert "of 19 pairs" in caplog.text
    assert " 2 have their English" in caplog.text


def test_too_few_pairs_for_one_update_are_refused(tmp_path):
    for language in ("de", "tr", "hi"):  # five English sides in all: two of the pairs share theirs
        (tmp_path / f"{language}.tsv").write_text(f"{language} one\tone\n{language} two\ttwo {language}\n")
    (tmp_path / "hi.tsv").write_text("hi one\tone\nhi two\ttwo hi\nhi three\tthree\n")
    files = f"align.pairs={tmp_path}/{{language}}.tsv"
    check_roles(load_recipe("mini", [files, "align.pairs_per_update=5"]))
    with pytest.raises(RecipeError, match=r"draws 6 pairs .* has 5.*align.pairs_per_update=5"):
        check_roles(load_recipe("mini", [files, "align.pairs_per_update=6"]))


def test_bare_prompts_end_with_the_line_break_that_answers_follow(monkeypatch, tokens):
    """The line break ends an answer too, so a target that begins with it would be cut to nothing."""
    monkeypatch.setattr(massive, "items", mini.items)
    options = ["task=midalign_slot_bare", "supervised=[en]", "aligned=[de]"]
    samples = TaskSamples(load_recipe("mini", options), tokens)
    task, document = samples.every[0]
    sample = samples.render(task, document)
    assert tokens.tokenizer.decode(sample.prompt, skip_special_tokens=True) == f"{document['utterance']}\n"
    assert tokens.tokenizer.decode(sample.target, skip_special_tokens=True) == document["target"]


def test_a_weight_of_zero_keeps_the_samples_of_the_pairs_alone(recipe, tokens, stream):
    with_loss, without = stream[3], made(load_recipe("mini", [*SMALL, "align.weight=0"]), tokens)[3]
    assert with_loss["pairs"]
    assert not without["pairs"]
    assert all(torch.equal(tensor, with_loss["answers"][key]) for key, tensor in without["answers"].items())
    with pytest.raises(RecipeError, match="set the arm to null"):
        load_recipe("mini", ["align.weight=0", "align.copy_samples=0"])


def test_a_labelled_share_without_items_is_rejected(tokens):
    with pytest.raises(RecipeError, match="leaves no training item"):
        made(load_recipe("mini", ["labelled_share=0.000001"]), tokens)[0]
    with pytest.raises(RecipeError, match="labelled_share needs the item ids"):
        load_recipe("mini", ["labelled_share=0.5", "task=lm_eval:arc_easy", "evaluate=false"])
