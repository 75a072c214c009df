"""Properties of digests and names over all keys of the recipe, which are taken from its schema."""

import json
from typing import Annotated, Any, get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from midalign import record
from midalign.errors import RecipeError
from midalign.sweep.grid import Grid
from midalign.sweep.points import Point, plan_points
from midalign.train.recipe import Recipe, load_recipe

MINI = json.loads(load_recipe("mini").model_dump_json())
STOPPED = {**MINI, "monitor": {"every": 5, "stop_on": "task_loss/supervised"}}
STOPPED["align"] = {**MINI["align"], "held_out": 3}

NOT_THE_WEIGHTS = {"output", "evaluate", "seeds", "save_every", "allow_overlap", "report_to", "base_hub_id"}
"""Keys of the recipe that change no adapter, besides the sections `evaluation` and `monitor`."""

CODES = st.lists(st.sampled_from(["en", "de", "fr", "hi", "tr"]), min_size=1, max_size=3, unique=True)
WORDS = st.text("abcDE1-_é", min_size=1, max_size=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "aligned": CODES,
    "supervised": CODES,
    "task": st.sampled_from(["midalign_mini_slot", "midalign_mini_mt", "midalign_slot"]),
    "align.pairs": st.sampled_from(["tatoeba", "ntrex", "massive", "mini"]),
    "monitor.stop_on": st.sampled_from(["task_loss/supervised", "slot_f1/aligned"]),
    "arguments": st.dictionaries(st.sampled_from(["adam_beta1", "max_grad_norm"]), st.floats(0.1, 0.9)),
    "output": WORDS,
    "system_instruction": st.none() | WORDS,
    "lora.use_rslora": st.booleans(),  # of peft, which the schema does not list
}
"""Values of keys whose type allows more than the recipe does."""


def keys(section: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, FieldInfo]:
    """Return every key of the recipe by its dotted name; sections themselves are no keys."""
    found = {}
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        found |= {f"{prefix}{name}": field} if inner is None else keys(inner, f"{prefix}{name}.")
    return found


KEYS = keys()
DECIDING = sorted(
    key
    for key in (*KEYS, "lora.use_rslora")
    if key not in {*NOT_THE_WEIGHTS, "arms", "name"}
    and key.partition(".")[0] not in ("evaluation", "monitor")
)
OTHERS = sorted(NOT_THE_WEIGHTS | {key for key in KEYS if key.partition(".")[0] in ("evaluation", "monitor")})


def values_of(key: str) -> st.SearchStrategy[Any]:
    if key in VALUES:
        return VALUES[key]
    field = KEYS[key]
    if field.annotation is str:
        return WORDS
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return st.from_type(kind)


def loaded(values: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """Return a recipe with some keys set; ends the example where the recipe does not allow them."""
    values = json.loads(json.dumps(values))
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if section:
            values[section] = {**(values[section] or {"every": 5}), name: value}
        else:
            values[name] = value
    try:
        found = Recipe.model_validate(values)
    except (ValidationError, TypeError):
        assume(False)
        raise
    assume("NaN" not in found.model_dump_json() and "null]" not in found.model_dump_json())
    return found


def value_at(found: Recipe, key: str) -> Any:
    value: Any = found
    for name in key.split("."):
        value = getattr(value, name)
    return value


def digests(found: Recipe) -> dict[str, str]:
    return {arm: found.digest(arm) for arm in found.arms}


any_key = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.parametrize("key", DECIDING)
@any_key
@given(st.data())
def test_recipes_have_one_digest_if_and_only_if_a_deciding_key_is_equal(
    key: str, data: st.DataObject
) -> None:
    one, two = (loaded(MINI, {key: data.draw(values_of(key))}) for _ in range(2))
    same = value_at(one, key) == value_at(two, key)
    assert (one.digest("aligned") == two.digest("aligned")) == same
    of_alignment = key.startswith("align.")
    assert (one.digest("baseline") == two.digest("baseline")) == (same or of_alignment)
    assert one.reference("aligned").baseline == one.digest("baseline")


@pytest.mark.parametrize("key", OTHERS)
@any_key
@given(st.data())
def test_keys_that_change_no_weights_change_no_digest(key: str, data: st.DataObject) -> None:
    assume_no_stop = {} if key != "monitor.stop_on" else {"monitor.stop_on": None}
    changed = loaded(MINI, {"align.held_out": 3, key: data.draw(values_of(key)), **assume_no_stop})
    assert digests(changed) == digests(loaded(MINI, {"align.held_out": 3}))


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith("monitor.")])
@any_key
@given(st.data())
def test_what_ends_the_training_decides(key: str, data: st.DataObject) -> None:
    one, two = (loaded(STOPPED, {key: data.draw(values_of(key))}) for _ in range(2))
    assume(one.monitor and two.monitor and one.monitor.stop_on and two.monitor.stop_on)
    same = value_at(one, key) == value_at(two, key)
    for arm in one.arms:
        assert (one.digest(arm) == two.digest(arm)) == same


@any_key
@given(st.data())
def test_an_arm_s_digest_is_of_its_alignment_however_it_is_said(data: st.DataObject) -> None:
    """Changed by the arm or for all arms, beside other arms or alone."""
    key = data.draw(st.sampled_from([key for key in DECIDING if key.startswith("align.")]))
    value = data.draw(values_of(key))
    everywhere = loaded(MINI, {key: value})
    arms = {"one": {key.removeprefix("align."): value}, "plain": {}}
    try:
        by_arm = loaded(MINI, {"arms": arms})
        found = by_arm.digest("one")
    except ValidationError:
        assume(False)
    assert found == everywhere.digest("aligned")
    assert by_arm.digest("plain") == load_recipe("mini").digest("aligned")


changes = st.lists(
    st.sampled_from([key for key in DECIDING if key not in ("base", "lora.use_rslora")]),
    min_size=0,
    max_size=2,
    unique=True,
).flatmap(lambda chosen: st.fixed_dictionaries({key: values_of(key) for key in chosen}))


def planned(points: list[dict[str, Any]]) -> list[Point]:
    return plan_points(Grid(name="g", recipe="mini", points=points))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(changes, min_size=2, max_size=3))
def test_points_of_a_sweep_are_told_apart_or_rejected(points: list[dict[str, Any]]) -> None:
    """Points that differ in what they train have other names; those that do not are one or rejected."""
    try:
        found = planned(points)
    except RecipeError:
        assume(False)
    trained = {}
    for point in found:
        align = point.recipe.align_of(point.arm)
        task_side = point.recipe.model_dump(mode="json", exclude={"name", "arms", "output", "align"})
        trained[point.label] = json.dumps([task_side, align and align.model_dump(mode="json")])
    assert len(trained) == len(found)
    assert len(set(trained.values())) == len(found)
    files = {record.record_file_name(f"{one.recipe.name}-{one.arm}").casefold() for one in found}
    assert len(files) == len(found)
    assert len({(one.recipe.digest(one.arm)) for one in found}) == len(found)
    for point in found:  # held against a baseline of the same task side
        for one in (point.recipe, point.against):
            assert one.updates == point.recipe.updates
        aside = {"name", "arms", "output", "align", "aligned"}
        assert point.against.model_dump(exclude=aside) == point.recipe.model_dump(exclude=aside)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_a_grid_changes_for_all_points_decides_their_digests(data: st.DataObject) -> None:
    """Names of points do not have it: a folder that holds adapters of another digest is rejected."""
    key = data.draw(
        st.sampled_from([key for key in DECIDING if key not in ("align.layer", "lora.use_rslora")])
    )
    one, two = (data.draw(values_of(key)) for _ in range(2))
    try:
        found = [
            plan_points(Grid(name="g", recipe="mini", changes={key: value}, points=[{"align.layer": 3}]))
            for value in (one, two)
        ]
    except RecipeError:
        assume(False)
    same = loaded(MINI, {key: one}) == loaded(MINI, {key: two})
    digests_of = [[point.recipe.digest(point.arm) for point in points] for points in found]
    assert (digests_of[0] == digests_of[1]) == same


def test_points_that_train_the_same_adapter_are_rejected() -> None:
    """A value of the recipe's own, or one number written in two ways."""
    for points in ([{}, {"align.pooling": "mean"}], [{"align.weight": 2}, {"align.weight": 2.0}]):
        with pytest.raises(RecipeError, match=r"the points .* train the same adapter"):
            planned(points)
    assert len(planned([{"updates": 5}, {"updates": 5}])) == 1


def test_a_point_s_text_is_kept_beyond_16_bits() -> None:
    (point,) = planned([{"system_instruction": "𐀀 🎉 é"}])
    assert point.recipe.system_instruction == "𐀀 🎉 é"
