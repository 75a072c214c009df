"""The annotation syntax: whatever is annotated is read back."""

from hypothesis import given
from hypothesis import strategies as st

from midalign.data.annotation import plain, slots

TEXT = st.text(st.characters(exclude_characters="[]", exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
LABEL = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20)
VALUE = TEXT.map(str.strip).filter(bool)


@given(st.lists(st.tuples(TEXT, st.none() | st.tuples(LABEL, VALUE))))
def test_what_was_annotated_is_read_back(parts):
    annotated = "".join(text + (f"[{slot[0]} : {slot[1]}]" if slot else "") for text, slot in parts)
    assert slots(annotated) == tuple(slot for _, slot in parts if slot)
    assert plain(annotated) == "".join(text + (slot[1] if slot else "") for text, slot in parts)


@given(TEXT)
def test_text_without_brackets_has_no_slots(text):
    assert slots(text) == ()
    assert plain(text) == text


def test_a_value_may_hold_the_separator():
    text = "wake me at [time : nine am] on [date : the 5th : maybe]"
    assert slots(text) == (("time", "nine am"), ("date", "the 5th : maybe"))
    assert plain(text) == "wake me at nine am on the 5th : maybe"


def test_blanks_around_a_value_are_not_part_of_it():
    assert slots("[date : 明天 ] [time :  九点]") == (("date", "明天"), ("time", "九点"))
