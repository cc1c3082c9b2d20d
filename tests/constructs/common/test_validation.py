"""Checks that props have in common: what they refuse, how they say so, and that tokens pass."""

from __future__ import annotations

import math

import pytest
from aws_cdk import Token

from cdk_inference.common.props.validation import (
    check_above_zero,
    check_at_least,
    check_between,
    check_choice,
    check_share,
)
from cdk_inference.errors import PropError


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least(1, size=0), "size must be at least 1, got 0"),
        (lambda: check_at_least(1, size=math.nan), "size must be at least 1, got nan"),
        (lambda: check_above_zero(hours=math.inf), "hours must be above 0, got inf"),
        (lambda: check_share(busy=1.5), "busy must be a share, from 0 to 1, got 1.5"),
        (lambda: check_between(1, 4096, "pixels", size=0), "size must be 1 to 4,096 pixels, got 0"),
        (lambda: check_between(0, 300, window=math.nan), "window must be 0 to 300, got nan"),
        (lambda: check_choice(["a"], kind="b"), "kind must be 'a', got 'b'"),
        (lambda: check_choice(["a", "b", "c"], kind=""), "kind must be 'a', 'b' or 'c', got ''"),
    ],
)
def test_wrong_values_fail_by_name(check, message) -> None:
    with pytest.raises(PropError, match=f"^{message}$"):
        check()


def test_right_values_and_tokens_pass() -> None:
    check_at_least(1, size=1, other=2.5)
    check_above_zero(hours=0.1)
    check_share(busy=0, idle=1)
    check_between(1, 2, low=1, high=2)
    check_choice(["a", "b"], kind="b")
    number = Token.as_number({"Ref": "Parameter"})
    check_at_least(1, size=number)
    check_between(1, 10, size=number)
