"""Ask OSV, a public database, for known vulnerabilities of the functions' pinned requirements; `make audit` runs this.

It exits with 69 where the database cannot be reached, since nothing was checked then.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import uv

from cdk_inference.bundling.wheels import Requirements, index_environment

FOLDER = Path(__file__).resolve().parents[1] / "lambda_src" / "requirements"
TOOL = "pip-audit==2.10.1"
DATABASE = ("api.osv.dev", 443)
UNAVAILABLE = 69


def main() -> None:
    """Check all lists, and exit with 1 if one of them has a known vulnerability."""
    try:
        socket.create_connection(DATABASE, timeout=10).close()
    except OSError as error:
        sys.stderr.write(
            f"not audited: {DATABASE[0]} cannot be reached, and there is no vulnerability data here ({error})\n"
        )
        sys.exit(UNAVAILABLE)
    # The files are neither downloaded nor resolved: each list is complete, and has hashes.
    command = [uv.find_uv_bin(), "tool", "run", TOOL, "--vulnerability-service", "osv"]
    command += ["--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    for path in sorted(FOLDER.glob("*.txt")):
        if Requirements(path):
            command += ["--requirement", str(path)]
    sys.exit(subprocess.run(command, env=index_environment(), check=False).returncode)  # noqa: S603 # uv's own binary


if __name__ == "__main__":
    main()
