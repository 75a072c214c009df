"""What a run renders and tokenizes lies on disk for the next one, and is taken for nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from midalign import bases
from midalign.train import samples
from midalign.train.recipe import load_recipe
from midalign.train.samples import SampleTokenizer, TokenizedSample
from midalign.train.task_samples import TaskSamples

PROBES = 1
"""A document of each supervised language is rendered for the digest."""


class Counting(TaskSamples):
    """Counts what it renders."""

    count = 0

    def render(self, task, document):
        self.count += 1
        return super().render(task, document)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))


def made(*overrides):
    recipe = load_recipe("mini", ["supervised=[en]", *overrides])
    return Counting(
        recipe, SampleTokenizer(AutoTokenizer.from_pretrained(bases.resolve("mini")), recipe.max_tokens)
    )


ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)


@given(st.dictionaries(st.integers(0, 2**40), st.builds(TokenizedSample, ids, ids, st.integers(0, 2**40))))
def test_what_is_written_is_read(some):
    samples.write_samples("a" * 64, some)
    assert samples.read_samples("a" * 64) == some


def test_the_next_run_renders_what_is_new_alone():
    first, second = made(), made()
    first.prepare(range(0, 600, 3))
    assert first.count == PROBES + 200
    second.prepare([0, 3, 4])
    assert second.count == PROBES + 1
    assert [second[i] for i in (0, 3, 4)] == [made()[i] for i in (0, 3, 4)]
    third = made()
    third.prepare([*range(0, 600, 3), 4])
    assert third.count == PROBES


def test_samples_of_other_text_settings_or_prompts_are_not_taken(monkeypatch):
    from lm_eval.api.task import ConfigurableTask

    made().prepare(range(5))
    others = [made("system_instruction=Answer."), made("max_tokens=100"), made("supervised=[en,es]")]
    changed = made()
    changed.every[3][1]["target"] += " "
    for other in [*others, changed]:
        other.prepare(range(5))
        assert other.count == len(other.tasks) + 5
    whole = ConfigurableTask.doc_to_text
    monkeypatch.setattr(ConfigurableTask, "doc_to_text", lambda *of, **how: "Now: " + whole(*of, **how))
    edited = made()
    edited.prepare(range(5))
    assert edited.count == PROBES + 5


def test_all_are_rendered_once_to_leave_out_long_ones():
    first, second = made("max_tokens=80", "too_long=drop"), made("max_tokens=80", "too_long=drop")
    assert 0 < len(first) == len(second) < first.count == PROBES + 1500
    assert second.count == PROBES


def test_a_damaged_file_is_made_again_and_a_full_cache_is_no_obstacle(tmp_path, monkeypatch, caplog):
    made().prepare(range(5))
    (file,) = (tmp_path / "samples").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-20], b"", b"PK"):
        file.write_bytes(damaged)
        again = made()
        again.prepare(range(5))
        assert again.count == PROBES + 5
        assert file.read_bytes() == whole
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "file"))
    made().prepare(range(5))
    assert "were not cached for the next run" in caplog.text
