"""Reads small files of a repository of the Hugging Face Hub, at the commit that it has now."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

import requests

from cdk_inference.init.errors import InitError
from cdk_inference.model.files.download import TIMEOUT, Token, open_session

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Hub:
    """A repository at one commit.

    Parameters
    ----------
    name
        Such as ``organisation/name``.
    revision
        The commit, so that a later one changes nothing.
    license
        The licence that its card names; ``NOASSERTION`` without.
    """

    name: str
    revision: str
    license: str

    @classmethod
    def find(cls, name: str) -> Hub:
        """Ask the Hub for a repository.

        Raises
        ------
        InitError
            There is none of this name, or the Hub cannot be reached.
        """
        if not _NAME.fullmatch(name):
            raise InitError(f"from must be hf: and a name such as hf:organisation/name, got 'hf:{name}'")
        response = _get(f"/api/models/{name}")
        if response is None:
            raise InitError(f"from must be hf: and a model of the Hub that you may read, got 'hf:{name}'")
        try:
            answer = response.json()
            revision, tags = str(answer["sha"]), [str(tag) for tag in answer.get("tags", ())]
        except (ValueError, KeyError, TypeError, AttributeError):
            revision, tags = "", []
        if not _COMMIT.fullmatch(revision):
            raise InitError(f"the Hub must name the commit of '{name}', got {revision!r}; look at HF_ENDPOINT")
        licenses = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
        return cls(name, revision, _SPDX.get(licenses[0], licenses[0]) if licenses else "NOASSERTION")

    def read(self, path: str) -> str | None:
        """Return the text of a file, or None if the repository has none of this name.

        Raises
        ------
        InitError
            The Hub cannot be reached, or the file is too large.
        """
        response = _get(f"/{self.name}/resolve/{self.revision}/{quote(path)}")
        if response is None:
            return None
        if len(response.content) > _MOST_BYTES:
            raise InitError(f"{path} of '{self.name}' must be at most 64 MiB, got {len(response.content):,} bytes")
        return response.content.decode("utf-8", "replace")


_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0"}
"""The Hub writes identifiers in lower case."""


def _get(path: str) -> requests.Response | None:
    """Return an answer of the Hub; None if it says that there is nothing to see."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    try:
        with open_session(0) as session:
            response = session.get(endpoint + path, timeout=TIMEOUT, auth=Token(token) if token else None)
    except requests.RequestException as error:
        raise InitError(
            f"{endpoint} must be reachable, got {type(error).__name__}; pass a folder, as in hf:./folder, to work "
            "without it"
        ) from error
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return None
    if not response.ok:
        raise InitError(f"{endpoint}{path} must answer, got the status {response.status_code}; try again later")
    return response
