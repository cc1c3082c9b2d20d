"""The members of a JSON object that set how a model writes its answer: how long it gets, and how it is drawn."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.stops import STOP

if TYPE_CHECKING:
    from inference_runtime.stages.builtin.json_object import JsonObject
    from inference_runtime.stages.item import Item

LIMIT, TEMPERATURE, TOP_P, SEED = "max_tokens", "temperature", "top_p", "seed"

SETTINGS = (LIMIT, TEMPERATURE, TOP_P, SEED)
"""The inputs of a model that writes, and the members of a JSON object that set them."""

NO_LIMIT = 2**31 - 1
"""Stands for an object that sets no limit: that of the model counts."""

NOT_SET = -1.0
"""Stands for an object that sets no such number: that of the model counts."""

_MOST_STOPS, _LONGEST_STOP = 4, 32  # whatever their characters, they fit into what an item may keep

_HIGHEST = {TEMPERATURE: 100.0, TOP_P: 1.0}
_LARGEST_SEED = 2**63 - 1


def answer_setting(name: str, record: JsonObject | None, item: Item) -> float:
    """Return the value of an input for an item.

    Parameters
    ----------
    name
        The input, of `SETTINGS`.
    record
        The object, if it is JSON.
    item
        The seed of an item that sets none follows from its id, so that each delivery of an event gets the same text.

    Raises
    ------
    RejectItem
        If the object's member is not such a value.
    """
    if record is None or name not in record:
        return _default(name, item)
    value = record[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _HIGHEST:
        if not number or not 0 <= value <= _HIGHEST[name]:
            raise RejectItem(f"field {name!r} is {value!r:.100}, expected a number from 0 to {_HIGHEST[name]:g}")
        return float(value)
    least = 1 if name == LIMIT else 0
    if not number or isinstance(value, float) or value < least:
        raise RejectItem(f"field {name!r} is {value!r:.100}, expected a whole number from {least}")
    return min(int(value), NO_LIMIT if name == LIMIT else _LARGEST_SEED)


def answer_stops(record: JsonObject) -> list[str]:
    """Return the strings before which the text of an item ends: its member `stop`, a string or a list of some.

    Raises
    ------
    RejectItem
        If it is something else.
    """
    if STOP not in record or (value := record[STOP]) is None:
        return []
    given = value if isinstance(value, list) else [value]
    if len(given) > _MOST_STOPS or not all(_is_stop(one) for one in given):
        raise RejectItem(
            f"field {STOP!r} is {value!r:.100}, expected at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} "
            "characters"
        )
    return given


def _is_stop(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_STOP:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)  # half of a character, as JSON may have it


def _default(name: str, item: Item) -> float:
    if name == LIMIT:
        return NO_LIMIT
    if name == SEED:
        return int.from_bytes(blake2b(item.id.encode(), digest_size=8).digest(), "little") & _LARGEST_SEED
    return NOT_SET
