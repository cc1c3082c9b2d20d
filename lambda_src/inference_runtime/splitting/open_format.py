"""Makes the format that a function's environment describes; a package is imported only where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from inference_runtime.splitting.formats import Format


def open_format(described: dict[str, Any], *, inline_bytes: int) -> Format:
    """Return a format.

    Parameters
    ----------
    described
        Its `kind`, and its options if they are not null.
    inline_bytes
        Bytes of a message at most.

    Raises
    ------
    StageError
        There is no such format, or it has no such option.
    """
    options = {name: value for name, value in described.items() if name != "kind" and value is not None}
    kind = described.get("kind")
    try:
        if kind == "json_lines":
            from inference_runtime.splitting.json_lines import JsonLines  # noqa: PLC0415

            return JsonLines(**options)
        if kind == "csv":
            from inference_runtime.splitting.csv_rows import CsvRows  # noqa: PLC0415

            return CsvRows(most_header_bytes=inline_bytes // 2, **options)
        if kind == "zip":
            from inference_runtime.splitting.zip_members import ZipMembers  # noqa: PLC0415

            return ZipMembers(most_inline_bytes=inline_bytes, **options)
        if kind == "tar":
            from inference_runtime.splitting.tar_members import TarMembers  # noqa: PLC0415

            return TarMembers(most_inline_bytes=inline_bytes, **options)
        if kind == "motion_jpeg":
            from inference_runtime.splitting.jpeg_frames import JpegFrames  # noqa: PLC0415

            return JpegFrames(**options)
        if kind in {"parquet", "video"}:
            return _with_packages(kind, options)
    except TypeError as error:
        raise StageError(f"the format {kind} does not have these options: {error}") from error
    raise StageError(f"the format must be json_lines, csv, zip, tar, motion_jpeg, video or parquet, got {kind!r}")


def _with_packages(kind: str, options: dict[str, Any]) -> Format:
    if kind == "video":
        from inference_runtime.splitting.video_frames import VideoFrames  # noqa: PLC0415

        return VideoFrames(**options)
    from inference_runtime.splitting.parquet_rows import ParquetRows  # noqa: PLC0415

    return ParquetRows(**options)
