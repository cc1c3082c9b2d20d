"""Objects that Lambda hands to one function: each ends as one row or one dead letter, whatever kills its process."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

GOOD = b"return [1, 2, 30, 40]"


def test_each_object_ends_once(direct: Watched) -> None:
    killers = {"exit": b"exit", "crash": b"crash"}
    slow = {"sleep": b"sleep"}
    orders = {
        **{f"in/good {number:02} +ä%20": GOOD for number in range(40)},
        "in/short": b"return [1, 2]",
        "in/raise": b"raise",
        **{f"in/{name}": order for name, order in {**killers, **slow}.items()},
    }
    direct.put("elsewhere", GOOD)
    for key, order in orders.items():
        direct.put(key, order)
    ends = direct.ends(orders)
    failing = {"in/raise", "in/exit", "in/crash", "in/sleep"}
    assert {key for key, end in ends.items() if end == "DEAD_LETTER"} == failing
    assert ends["in/short"] == "REJECTED"
    assert {end for key, end in ends.items() if key.startswith("in/good")} == {"SUCCEEDED"}
    assert direct.rows("elsewhere") == []
    reasons = direct.reasons()
    assert reasons["in/raise"] == ("RuntimeError", "as it was told")
    assert reasons["in/exit"] == ("ProcessDiedError", "ended with exit status 1")
    assert reasons["in/crash"] == ("ProcessDiedError", "killed by SIGSEGV")
    assert reasons["in/sleep"][0] == "TookTooLongError"
    row = direct.row("in/good 00 +ä%20")
    assert row["version"] != "null"
    assert quote_plus(row["key"]) != row["key"]
