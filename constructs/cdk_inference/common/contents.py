"""Files as a package or an image has them: their modes, their bytes, and hashes over these."""

from __future__ import annotations

import stat
import time
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import hash_file

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_SCRIPT = b"#!"  # begins what names the program that runs it

# A file that changed this recently may change again without a new date: clocks of file systems are coarse.
_SETTLED_SECONDS = 2
_HASHES: dict[tuple[object, ...], str] = {}


def content_digest(files: Mapping[str, Path | bytes]) -> str:
    """Return a hash over the names, modes and bytes of files."""
    digest = sha256()
    for name, content in sorted(files.items(), key=itemgetter(0)):
        inner = sha256(content).hexdigest() if isinstance(content, bytes) else hash_once(content)
        digest.update(f"{name}\0{mode_of(content):o}\0{inner}\n".encode())
    return digest.hexdigest()


def hash_once(path: Path) -> str:
    """Return the SHA-256 of a file, which is read once in a synth: functions share the runtime, and often a model."""
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    if (known := _HASHES.get(key)) is None:
        known = hash_file(path)
        if is_settled(state):
            _HASHES[key] = known
    return known


def is_settled(state: os.stat_result) -> bool:
    """Tell whether a file that changed once more would have another date."""
    return time.time() - max(state.st_mtime, state.st_ctime) > _SETTLED_SECONDS


def mode_of(content: Path | bytes) -> int:
    """Return the mode in AWS, whatever the umask: Lambda runs as another user than the owner."""
    executable = content.stat().st_mode & stat.S_IXUSR if isinstance(content, Path) else content.startswith(_SCRIPT)
    return 0o755 if executable else 0o644
