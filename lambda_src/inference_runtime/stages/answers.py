"""The answers of a pipeline to callers that wait for them, as JSON."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.stages.rows import Attribute

ANSWERS_ONLY = "only"
"""The member `answers` of an event of a caller that wants no rows."""

ANSWERS_AND_ROWS = "rows"
"""The member `answers` of an event of a caller that wants rows too."""


def answers_of(
    items: Sequence[Item], outcomes: Mapping[int, Mapping[str, Any]], said: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what is said of each item, with the values that its row has.

    Parameters
    ----------
    items
        By index.
    outcomes
        By index, as those of `Postprocessor`.
    said
        The members that all rows have; `model_version` and `inference` are part of the answer.

    Returns
    -------
    list
        `[{"message_id", "status", "model_version", "inference"}]`, with a `prediction` or a `reason`.
    """
    answers = []
    for index in sorted(outcomes):
        answer = {
            "message_id": items[index].message_id,
            "model_version": said["model_version"],
            "inference": said["inference"],
            **outcomes[index],
        }
        if "prediction" in answer:
            answer["prediction"] = plain(answer["prediction"])
        answers.append(answer)
    return answers


def plain(attribute: Attribute) -> Any:  # noqa: ANN401 - any JSON value
    """Return an attribute of DynamoDB as JSON: bytes in base64."""
    [(kind, value)] = attribute.items()
    if kind == "N":
        number = Decimal(value)
        return int(number) if number == number.to_integral_value() and "." not in value else float(number)
    if kind == "B":
        return base64.b64encode(value).decode()
    if kind == "L":
        return [plain(member) for member in value]
    if kind == "M":
        return {name: plain(member) for name, member in value.items()}
    return None if kind == "NULL" else value
