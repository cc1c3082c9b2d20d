"""Examples of hypothesis that do not depend on what other tests of the process have imported.

It draws constants from all modules that are imported, so a test would meet others in each process of `make test`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis.internal.conjecture import providers

if TYPE_CHECKING:
    from hypothesis.internal.constants_ast import Constants


def install(profile: str) -> None:
    """Leave these constants out while a profile is loaded."""
    found, none = providers._get_local_constants, providers._local_constants

    def constants() -> Constants:
        return none if settings.get_current_profile_name() == profile else found()

    providers._get_local_constants = constants
