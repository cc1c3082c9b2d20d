"""The ``tokenizer.json`` of a model, as props name it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import cache_root
from cdk_inference.errors import ModelBuildError, PropError
from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.byte_tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile

_MOST_STOPS = 8  # together, they fit into the variables of a function
_LONGEST_STOP = 32


def tokenizer_file(tokenizer: str | Path | Download | HubFile | PackageFile) -> Path:
    """Return the ``tokenizer.json`` that a prop names.

    Raises
    ------
    PropError
        It does not exist, or is none.
    """
    if isinstance(tokenizer, str | Path):
        path = Path(tokenizer)
        if not path.is_file():
            raise PropError(f"tokenizer must be an existing file, got '{path}'; looked in {Path.cwd()}")
    else:
        from cdk_inference.model.files.fetch import fetch  # noqa: PLC0415 - with its HTTP client it takes 0.2 s to import

        try:
            path = fetch(tokenizer, Path.cwd(), cache_root())
        except ModelBuildError as error:
            raise PropError(f"tokenizer cannot be read: {error}") from None
    if path.suffix == ".model":
        raise PropError(
            f"tokenizer must be a tokenizer.json, got the SentencePiece model '{path}', which does not say what is put "
            "around a text; let transformers write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PropError(f"tokenizer must be JSON, got '{path}': {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise PropError(
            f"tokenizer must have a model, got none in '{path}'; pass the tokenizer.json of a fast tokenizer, as its "
            "save_pretrained writes it"
        )
    return path


def check_prompt(path: Path, prompt: str, max_length: int) -> None:
    """Check that a prompt leaves room for a text, where the package tokenizers is installed to count its tokens.

    Raises
    ------
    PropError
        The prompt alone has as many tokens as there may be.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - no synth needs it

        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        count = len(tokenizer.encode(prompt.replace("{text}", "")).ids)
    except Exception:  # it raises nothing else of a file that is newer than itself, or without its unknown token
        return
    if count >= max_length:
        raise PropError(
            f"max_length must be more than the {count:,} tokens of the prompt, got {max_length:,}; raise it, or "
            "shorten the prompt"
        )


def check_decodes(path: Path) -> int:
    """Return how many tokens a ``tokenizer.json`` has, whose tokens the functions can turn into text.

    Raises
    ------
    PropError
        It is that of a tokenizer that is neither byte-level nor SentencePiece's.
    """
    try:
        return len(read_tokens(str(path)))
    except StageError as error:
        raise PropError(f"tokenizer must have tokens that can be turned into text, got '{path}': {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError):
        raise PropError(f"tokenizer must be as the library tokenizers writes it, got '{path}'; save it again") from None


def check_stop(stop: Sequence[str]) -> None:
    """Refuse strings that cannot end a text.

    Raises
    ------
    PropError
        The message names them.
    """
    if len(stop) > _MOST_STOPS or not all(0 < len(one) <= _LONGEST_STOP for one in stop):
        raise PropError(
            f"stop must be at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters, got {list(stop)!r}"
        )
