"""The set of labels that a model is trained with, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MEMBERS = ("bucket", "key", "version_id", "label", "by", "at")
_IDENTITY = ("bucket", "key", "version_id", "label")


@dataclass(frozen=True)
class LabelSet:
    """Labels in a fixed order.

    Parameters
    ----------
    run
        The id of the run that trains with them: 16 hexadecimal digits that follow from objects, versions and labels.
    lines
        The labels as JSON lines.
    classes
        How many labels each class has.
    """

    run: str
    lines: bytes
    classes: Mapping[str, int]

    @property
    def size(self) -> int:
        """How many labels there are."""
        return sum(self.classes.values())

    @classmethod
    def of(cls, labels: Iterable[Mapping[str, str]], *, held_out: float = 0.0, salt: str = "") -> LabelSet:
        """Return the set of some labels, in whichever order they come.

        The lines say who labelled an object and when. The id does not depend on that: the same labels train the same
        model.

        Parameters
        ----------
        labels
            Labels as the table has them.
        held_out
            The share of the objects that training does not see, and that the gate may look at. It depends on an object
            alone whether it is one of them, so that no run trains with what another one was judged by.
        salt
            Another salt makes other ids of the same labels.
        """
        ordered = sorted(labels, key=lambda label: (label["bucket"], label["key"]))
        identity = hashlib.sha256(json.dumps([salt, held_out]).encode() + b"\n")
        lines = []
        for label in ordered:
            identity.update(json.dumps([label[name] for name in _IDENTITY]).encode() + b"\n")
            said: dict[str, object] = {name: label[name] for name in _MEMBERS}
            said["held_out"] = _place(label) < held_out
            lines.append(json.dumps(said, ensure_ascii=False).encode() + b"\n")
        return cls(identity.hexdigest()[:16], b"".join(lines), Counter(label["label"] for label in ordered))


def _place(label: Mapping[str, str]) -> float:
    """Return a number from 0 to below 1 that follows from an object, evenly spread over objects."""
    digest = hashlib.sha256(f"{label['bucket']}/{label['key']}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
