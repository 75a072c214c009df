"""Each family's two modules have all members of their protocols."""

import inspect
import pickle
from types import ModuleType

import pytest

from midalign.families import Family, family
from midalign.metrics import FAMILIES, Scorer, scorer


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_functions_of_its_protocol(name: str) -> None:
    module = family(name)
    for member, function in inspect.getmembers(Family, inspect.isfunction):
        if member.startswith("_"):
            continue
        assert member in vars(module), member
        _, *expected = inspect.signature(function).parameters
        if member != "dataset":  # takes the metadata by keywords
            assert len(inspect.signature(getattr(module, member)).parameters) == len(expected), member


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_of_a_task_can_be_pickled(name: str) -> None:
    splits = family(name).dataset(source="mini", language="en-de" if name == "translation" else "de")
    copy = pickle.loads(pickle.dumps(splits))
    assert type(copy) is type(splits)
    assert copy.read.args == splits.read.args


@pytest.mark.parametrize("name", FAMILIES)
def test_a_scorer_has_the_members_of_its_protocol(name: str) -> None:
    module = scorer(name)
    assert isinstance(module, ModuleType)
    assert set(Scorer.__annotations__) <= set(vars(module))
    assert next(iter(module.METRICS)) == module.HEADLINE
    shown = {*module.DIFFERENCE_METRICS, *module.DETAIL_METRICS, *module.LOSS_METRICS}
    assert shown | {*module.DERIVED_METRICS} <= set(module.METRICS)
    assert set(module.DERIVED) <= module.ADDED
    assert {module.READABLE, *module.ADDED, *(name for row in module.AT_MOST for name in row)} <= set(
        module.COLUMNS
    )
