"""The examples of property tests are the same in each process, whatever else was imported there."""

from __future__ import annotations

from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import HypothesisProvider


def test_no_example_comes_from_an_imported_module() -> None:
    assert settings.get_current_profile_name() == "suite"
    find(st.integers(), lambda _: True)
    assert len(HypothesisProvider(None)._local_constants) == 0
