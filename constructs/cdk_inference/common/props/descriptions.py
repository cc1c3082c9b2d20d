"""Descriptions of resources, in characters and lengths that every AWS service accepts."""

from __future__ import annotations

import re

# Security groups are the strictest: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
_REFUSED = re.compile(r"[^A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]")
_CUT = "..."

SECURITY_GROUP, FUNCTION, LAYER, RULE, PIPE, SCHEDULE, ROLE, KEY = 255, 256, 256, 512, 512, 512, 1_000, 8_192
"""Most characters of a description."""


def described(text: str, most: int) -> str:
    """Return a description that AWS accepts: other characters become ``_``, and the middle of a long text is left out.

    Construct paths of any length and in any script reach descriptions, and CloudFormation would fail only when it
    deploys them.

    Parameters
    ----------
    text
        The description.
    most
        Most characters, such as `ROLE`.
    """
    accepted = _REFUSED.sub("_", text)
    if len(accepted) <= most:
        return accepted
    end = (most - len(_CUT)) // 2  # the end of a path says more than its middle
    return f"{accepted[: most - len(_CUT) - end]}{_CUT}{accepted[-end:]}"
