"""The recordings in the folder of that name, each next to a text file of what is said in it."""

from pathlib import Path

from inference_runtime.stages.builtin.audio import audio_preprocessor

FORMATS = ("wav", "flac", "ogg")


def evaluation():
    """Yield one recording after the other, and its text. The longest texts are first, as a decoder needs them."""
    read = audio_preprocessor(16_000, max_seconds=30, formats=FORMATS)
    texts = [(file.read_text().strip(), file) for file in Path(__file__).with_name("recordings").glob("*.txt")]
    for text, file in sorted(texts, key=lambda pair: (-len(pair[0]), pair[1].name)):
        sound = next(one for form in FORMATS if (one := file.with_suffix(f".{form}")).is_file())
        yield {"samples": read(sound.read_bytes(), None)[None]}, [text], [file.stem]
