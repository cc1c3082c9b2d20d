"""The passes of a build: each is timed and reported, and those that take long are cached by what they depend on."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from cdk_inference.common.cache import hash_data
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.records.fingerprint import changed_files, hash_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from cdk_inference.common.store import Store
    from cdk_inference.model.building.reads import Reads
    from cdk_inference.model.recipe.recipe import ModelRecipe


class Passes:
    """Runs passes.

    Parameters
    ----------
    store
        Keeps what the cached passes make.
    common
        The dependencies of every pass: versions of the tools, and our code.
    stream
        Gets one event a line, as JSON.
    reads
        Knows which files were read.
    """

    def __init__(self, store: Store, common: object, stream: IO[str], reads: Reads | None = None) -> None:
        self._store = store
        self._common = common
        self._stream = stream
        self._reads = reads
        self.current = "start"
        self.done: list[dict[str, object]] = []
        """Name, seconds, and whether it came from the cache, of each pass so far."""

    def cached(self, name: str, depends: object, fill: Callable[[Path], None], note: str = "") -> Path:
        """Return the folder that a pass filled, now or earlier.

        Parameters
        ----------
        name
            The name of the pass.
        depends
            All that its result depends on besides tools and code, as JSON-compatible data.
        fill
            Writes the result into an empty folder.
        note
            A remark about this run of the pass, for people.
        """
        key = f"{name}-{hash_data([name, depends, self._common])[:32]}"
        found = True

        def run(folder: Path) -> None:
            nonlocal found
            found = False
            fill(folder)

        with self._timed(name, note) as result:
            folder = self._store.make(key, run)
            result["cached"] = found
        return folder

    @contextmanager
    def timed(self, name: str, note: str = "") -> Iterator[None]:
        """Run the body as a pass that is not cached."""
        with self._timed(name, note):
            yield

    @contextmanager
    def _timed(self, name: str, note: str) -> Iterator[dict[str, object]]:
        self.current, start = name, time.perf_counter()
        self.event({"pass": name, "note": note})
        result: dict[str, object] = {"pass": name, "note": note, "cached": False}
        yield result
        result["seconds"] = round(time.perf_counter() - start, 3)
        self.done.append(result)
        self.event(result)

    def check_files(self, folder: Path, recipe: ModelRecipe, expected: Mapping[str, str]) -> None:
        """Refuse to keep what was made from other files than those that it will be found by.

        Raises
        ------
        ModelBuildError
            Naming the files that changed, or that were read and do not count.
        """
        if changed := changed_files(expected, hash_files(folder, recipe)):
            raise ModelBuildError(
                f"files in {folder} must not change during the build, got {', '.join(changed[:5])}; build again, and "
                "keep what changes by itself, such as logs, elsewhere"
            )
        if self._reads is not None and (missed := self._reads.missed(expected)):
            raise ModelBuildError(
                f"the build must notice changes of all files that it reads, got {missed[0]} in {folder}, which no file "
                "that the recipe's functions import names; write its name as a string where it is read or imported"
            )

    def received(self, have: int, size: int) -> None:
        """Report how far a download of the current pass is.

        Parameters
        ----------
        have
            Bytes that are there.
        size
            Bytes of the file, 0 if that is not known.
        """
        self.event({"pass": self.current, "received": have, "size": size})

    def event(self, data: dict[str, object]) -> None:
        """Send one event to the parent."""
        self._stream.write(json.dumps(data) + "\n")
        self._stream.flush()
