"""Asks the simulator of policies."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify import node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from verify.policies.requests import Request

PACKAGE = "@cloud-copilot/iam-simulate"
"""The simulator, as npm names it."""

_SIMULATE = Path(__file__).with_name("simulate.mjs")
_PROCESSES = 2


class Simulator:
    """Asks the simulator everything once: most questions of an app are those of another, about the same policies."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str], str] = {}
        self._questions: dict[str, int] = {}

    def add(self, request: Request, documents: Mapping[str, Any]) -> int:
        """Take a question, and return the number of its answer."""
        *what, identity, policy = request.question()
        names = [self._name("identity", documents[name]) for name in identity]
        text = json.dumps([*what, names, policy and self._name("resource", documents[policy])])
        return self._questions.setdefault(text, len(self._questions))

    def answers(self, package: Path) -> list[str]:
        """Return all answers, by number."""
        documents = {name: json.loads(text) for (_, text), name in self._documents.items()}
        texts = list(self._questions)

        def answered(part: list[str]) -> list[str]:
            requests = [json.loads(text) for text in part]
            found: list[str] = node.run(_SIMULATE, package, {"documents": documents, "requests": requests})
            return found

        size = -(-len(texts) // _PROCESSES) or 1
        with ThreadPoolExecutor(_PROCESSES) as pool:
            parts = pool.map(answered, [texts[start : start + size] for start in range(0, len(texts), size)])
        return [answer for part in parts for answer in part]

    def _name(self, kind: str, document: Any) -> str:
        return self._documents.setdefault((kind, json.dumps(document)), f"{kind} {len(self._documents)}")
