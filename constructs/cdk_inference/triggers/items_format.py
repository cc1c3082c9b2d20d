"""How objects hold many items, and what the functions that take them apart need for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FormatKind = Literal["json_lines", "csv", "parquet", "zip", "tar", "motion_jpeg", "video"]

_PLAIN = "sagemaker"  # it has nothing but botocore
_REQUIREMENTS = {"parquet": "split-parquet", "video": "split-video"}

# Letters, digits, `_`, `-` and `/`, as the paths of the other triggers; elements by number.
_PATH = re.compile(r"(?:\$\.)?[A-Za-z0-9_/-]+(?:\.[A-Za-z0-9_/-]+|\[\d+\])*")


@check_props
@dataclass(frozen=True)
class ItemsFormat:
    """How an object holds its items; make one by its factories, and pass it to `S3ItemsTrigger`.

    Attributes
    ----------
    kind
        The name of the format.
    options
        The settings of its reader, by name.
    """

    kind: FormatKind
    options: Mapping[str, object]

    @classmethod
    def json_lines(cls, *, item_id: str | None = None) -> ItemsFormat:
        """Take each line of JSON as an item; empty lines are none.

        Parameters
        ----------
        item_id
            Where in a line the id of its item is, such as ``"order.id"``. Default: the number of the line, from 1.

        Raises
        ------
        PropError
            The path is none.
        """
        return cls("json_lines", {} if item_id is None else {"item_id": _dotted(item_id)})

    @classmethod
    def csv(cls, *, item_id: str | None = None, delimiter: str = ",", encoding: str = "utf-8") -> ItemsFormat:
        """Take each row of a CSV with a header as an item: preprocessing gets a CSV of this row and the header.

        Parameters
        ----------
        item_id
            The column with the id. Default: the number of the row, from 1; the header does not count.
        delimiter
            The character between two values. Default: a comma.
        encoding
            Python's name of the encoding, in which ASCII takes one byte each. Default: UTF-8.

        Raises
        ------
        PropError
            The column has no name, or the delimiter or the encoding is none.
        """
        named = {} if item_id is None else {"item_id": _column(item_id)}
        check(
            len(delimiter) == 1 and delimiter.isascii() and delimiter not in '"\r\n',
            "delimiter",
            "one ASCII character other than a quote or a line end",
            repr(delimiter),
        )
        check(_is_like_ascii(encoding), "encoding", "one of Python's in which ASCII takes one byte", f"'{encoding}'")
        return cls("csv", {**named, "delimiter": delimiter, "encoding": encoding})

    @classmethod
    def parquet(cls, *, item_id: str | None = None, columns: Sequence[str] | None = None) -> ItemsFormat:
        """Take each row of a Parquet file as an item: preprocessing gets a JSON object with its columns.

        Times are ISO 8601, decimals are strings, and bytes are base64.

        Parameters
        ----------
        item_id
            The column with the id. Default: the number of the row, from 1.
        columns
            The columns that are read, `item_id` among them. Default: all.

        Raises
        ------
        PropError
            A column has no name or is given twice, or `item_id` is not among the columns.
        """
        options: dict[str, object] = {} if item_id is None else {"item_id": _column(item_id)}
        if columns is not None:
            check(
                bool(columns) and all(columns) and len(set(columns)) == len(columns),
                "columns",
                "unique names of columns",
                list(columns),
            )
            if item_id is not None and item_id not in columns:
                raise PropError(f"columns must contain item_id, got {list(columns)} without '{item_id}'; add it")
            options["columns"] = list(columns)
        return cls("parquet", options)

    @classmethod
    def zip(cls, *, suffixes: Sequence[str] = ()) -> ItemsFormat:
        """Take each file of a zip archive as an item, whose id is its name.

        Parameters
        ----------
        suffixes
            Only files whose names end with one of them, in lower or upper case. Default: all.

        Raises
        ------
        PropError
            A suffix is none.
        """
        return cls("zip", {"suffixes": _suffixes(suffixes)})

    @classmethod
    def tar(cls, *, suffixes: Sequence[str] = ()) -> ItemsFormat:
        """Take each file of a tar archive, which may be compressed with gzip, as an item, whose id is its name.

        Parameters
        ----------
        suffixes
            Only files whose names end with one of them, in lower or upper case. Default: all.

        Raises
        ------
        PropError
            A suffix is none.
        """
        return cls("tar", {"suffixes": _suffixes(suffixes)})

    @classmethod
    def motion_jpeg(cls, *, every: int = 1) -> ItemsFormat:
        """Take each frame of a video of JPEGs as an item, whose id is the number of the frame, from 1.

        Videos are raw streams, AVI files of Motion JPEG, or recordings of cameras that send multipart messages. For
        other codecs, see `video`.

        Parameters
        ----------
        every
            One of so many frames is an item, beginning with the first. Default: each.

        Raises
        ------
        PropError
            The number is below 1.
        """
        check(every >= 1, "every", "at least 1", every)
        return cls("motion_jpeg", {"every": every})

    @classmethod
    def video(cls, *, every: int = 1, max_seconds: float = 3_600.0, max_pixels: int = 8_847_360) -> ItemsFormat:
        """Take each frame of a video as an item, whose id is the number of the frame, from 1.

        Videos are MP4 and WebM files of H.264, HEVC, AV1, VP8, VP9 or MPEG-4 part 2, and animated GIFs. Preprocessing
        gets each frame as a JPEG. FFmpeg goes into the function's package, 127 MB unpacked with Pillow.

        Parameters
        ----------
        every
            One of so many frames is an item, beginning with the first. Default: each.
        max_seconds
            The longest video, at most 86,400 seconds. A longer one becomes a dead letter. Default: an hour.
        max_pixels
            The largest frame, at most 35,389,440 pixels (8K). A video with larger ones becomes a dead letter before it
            is decoded. Default: 4096 x 2160.

        Raises
        ------
        PropError
            A number is out of range.
        """
        check(every >= 1, "every", "at least 1", every)
        check(0 < max_seconds <= 86_400, "max_seconds", "above 0 and at most 86,400 seconds", f"{max_seconds:g}")  # noqa: PLR2004
        check(1 <= max_pixels <= 35_389_440, "max_pixels", "1 to 35,389,440", f"{max_pixels:,}")  # noqa: PLR2004
        return cls("video", {"every": every, "max_seconds": max_seconds, "max_pixels": max_pixels})

    def bind(self, handler: str) -> ItemsCode:
        """Return the code that reads this format.

        Parameters
        ----------
        handler
            The entry point of the function.
        """
        return ItemsCode(
            package=ZipPackage(handler=handler, runtime_requirements=_REQUIREMENTS.get(self.kind, _PLAIN)),
            environment={"ITEMS_FORMAT": json.dumps({"kind": self.kind, **self.options}, separators=(",", ":"))},
        )


@dataclass(frozen=True, kw_only=True)
class ItemsCode:
    """The code of a function that reads items of a format.

    Parameters
    ----------
    package
        The code.
    environment
        The variables that say which format it is.
    """

    package: ZipPackage
    environment: Mapping[str, str]


def _dotted(path: str) -> str:
    """Return a path such as ``$.lines[0].id`` as ``lines.0.id``."""
    if not _PATH.fullmatch(path):
        raise PropError(
            f"item_id must be a path such as 'order.id', got '{path}'; name members of letters, digits, '_', '-' and "
            "'/', and elements by number"
        )
    return path.removeprefix("$.").replace("[", ".").replace("]", "")


def _column(name: str) -> str:
    check(bool(name), "item_id", "the name of a column", repr(name))
    return name


def _suffixes(suffixes: Sequence[str]) -> list[str]:
    for suffix in suffixes:
        if not suffix.startswith(".") or len(suffix) < 2:  # noqa: PLR2004
            raise PropError(f"suffixes must be of the form '.jpg', got '{suffix}'")
    return [suffix.lower() for suffix in suffixes]


def _is_like_ascii(encoding: str) -> bool:
    """Tell whether line ends and quotes are one byte, by which a CSV is cut into rows without decoding it."""
    signs = '\r\n",;\t'
    try:
        return signs.encode(encoding) == signs.encode()
    except (LookupError, UnicodeError):
        return False
