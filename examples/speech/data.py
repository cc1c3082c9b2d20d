"""The recordings in the folder of that name, decoded as the function decodes them."""

from pathlib import Path

from inference_runtime.stages.builtin.audio import audio_preprocessor

FORMATS = ("wav", "flac", "ogg")
RATE = 16_000


def recordings():
    """Yield one recording after the other."""
    read = audio_preprocessor(RATE, max_seconds=60, too_long="truncate", formats=FORMATS)
    for file in sorted(Path(__file__).with_name("recordings").glob("[!.]*")):  # macOS adds .DS_Store
        yield {"input": read(file.read_bytes(), None)[None]}
