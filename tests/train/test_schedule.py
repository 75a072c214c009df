"""Schedules: what every arm sees of the task, and how alignment comes in."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from midalign.train.recipe import Align, load_recipe
from midalign.train.schedule import Step, plan_updates

ALIGN = load_recipe("mini").align.model_dump() | {"weight": 2.0}


def plan(updates, **changes):
    return plan_updates(updates, Align.model_validate(ALIGN | changes))


def kinds(updates, **changes):
    return " ".join("+".join(step.kind[0] for step in update) for update in plan(updates, **changes))


def test_forms():
    assert kinds(3) == "t+p t+p t+p"
    assert kinds(2, alternate="micro", cycles=2) == "t+p+t+p t+p+t+p"
    assert kinds(2, alternate="micro", ratio=[2, 1]) == "t+t+p t+t+p"
    assert kinds(5, alternate="update") == "t p t p t p t p t p"
    assert kinds(5, alternate="update", ratio=[2, 1]) == "t t p t t p t"
    assert kinds(2, alternate="update", ratio=[1, 3]) == "t p p p t p p p"
    assert kinds(4, until=0.5) == "t+p t+p t t"
    assert kinds(4, first=0.5) == "p p t+p t+p t+p t+p"
    assert kinds(4, first=0.5, until=0) == "p p t t t t"
    assert kinds(3, task=False) == "p p p"
    assert plan_updates(2, None) == [(Step("task", 0),), (Step("task", 1),)]


def test_the_published_code_weighs_half_and_half():
    """Two groups of each kind, every micro-batch's mean over four, as gradient accumulation has it."""
    (update,) = plan(1, alternate="micro", cycles=2)  # of weight 2
    assert [(step.kind, step.part, step.parts, step.weight) for step in update] == [
        ("task", 0, 2, 0.25),
        ("pairs", 0, 2, 0.5),
        ("task", 1, 2, 0.25),
        ("pairs", 1, 2, 0.5),
    ]


def test_the_weight_rises():
    weights = [update[1].weight for update in plan(8, rise=0.5)]
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]


@given(
    st.integers(1, 40),
    st.sampled_from(["joint", "micro", "update"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.25]),
)
def test_every_arm_sees_the_task_whole_and_in_order_and_no_pairs_twice(
    updates, alternate, ratio, cycles, until, first
):
    pairs = 2 * ratio[1] * cycles
    assume(until or first)
    found = plan(
        updates,
        alternate=alternate,
        ratio=ratio,
        cycles=cycles,
        until=until,
        first=first,
        pairs_per_update=pairs,
    )
    for kind in ("task", "pairs"):
        steps = [step for update in found for step in update if step.kind == kind]
        batches = list(dict.fromkeys(step.batch for step in steps))
        assert batches == list(range(updates if kind == "task" else len(batches)))
        for batch in batches:
            parts = [step for step in steps if step.batch == batch]
            assert [step.part for step in parts] == list(range(parts[0].parts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alternate": "micro", "cycles": 3}, "cannot be divided into 3 parts"),
        ({"layer": [2, 4], "layer_weights": [1.0]}, "2 layers have 1 layer_weights"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(2, **changes)
