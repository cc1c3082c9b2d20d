"""How long calls to AWS may take, and how often they are tried.

A service that hangs must show as an error of the call. Otherwise the stage runs into its own timeout (30 s) and is
taken for killed by an object. Two attempts of 2 + 8 s and the pause between them take 21 s. The workflow and the queue
retry what lasts longer.
"""

from __future__ import annotations

ATTEMPTS = 2
CONNECT_TIMEOUT = 2
READ_TIMEOUT = 8

MAX_CONNECTIONS = 8
