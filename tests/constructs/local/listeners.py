"""Where processes of this machine listen, read from /proc."""

from __future__ import annotations

import re
import socket
from pathlib import Path

_LISTENING = "0A"


def listeners(leader: int) -> set[tuple[str, int]]:
    """Addresses and ports at which the processes of a group listen."""
    inodes = {inode for process in _group(leader) for inode in _sockets(process)}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def _group(leader: int) -> list[Path]:
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(after_name[2]) == leader:
            processes.append(folder)
    return processes


def _sockets(process: Path) -> set[str]:
    inodes = set()
    try:
        for link in (process / "fd").iterdir():
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(match[1])
    except OSError:  # it has ended, or closed that one
        pass
    return inodes
