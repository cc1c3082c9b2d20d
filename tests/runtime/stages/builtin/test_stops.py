"""A text ends before the first string that stops it, whatever parts it comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.stages.builtin.stops import Stops, cut

few = st.text("ab\n", max_size=12)
strings = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def first_complete(text: str, stop: list[str]) -> str:
    """Return a text up to the string that is complete first, and is the longest of those."""
    for end in range(len(text) + 1):
        places = [end - len(one) for one in stop if text[:end].endswith(one)]
        if places:
            return text[: min(places)]
    return text


@given(parts=st.lists(few, max_size=6), stop=strings)
def test_a_text_in_parts_ends_where_the_whole_one_does(parts: list[str], stop: list[str]) -> None:
    stops, said, whole = Stops(stop), "", ""
    for part in parts:
        whole += part
        said += stops.add(part)
        assert first_complete(whole, stop).startswith(said)  # nothing is said that would have to be taken back
    assert stops.reached == any(one in whole for one in stop)
    assert said + stops.rest() == cut(whole, stop) == first_complete(whole, stop)


def test_characters_that_begin_no_string_are_passed_on_at_once() -> None:
    stops = Stops(["\n\nUser:"])
    assert [stops.add(part) for part in ("Yes", ".\n", "\nUse", " it.", "\n\nUser", ":no")] == [
        *("Yes", ".", "", "\n\nUse it.", "", "")
    ]
    assert (stops.reached, stops.rest(), stops.add("more")) == (True, "", "")
