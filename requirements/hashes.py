"""Write the hashes of the functions' pinned requirements anew; `make hashes` runs this after a version was changed.

Each line of a list names one exact version. The index is asked for the hashes of all files of that version. One list
therefore serves every platform and every version of Python. Comments at the top of a list stay.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import uv

from cdk_inference.bundling.wheels import Requirements, index_environment

FOLDER = Path(__file__).resolve().parents[1] / "lambda_src" / "requirements"


def hashed(path: Path) -> str:
    """Return a list of requirements with the hashes that the index has today.

    Parameters
    ----------
    path
        A requirements file that pins exact versions.
    """
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    named = sorted(Requirements(path).named)
    if not named:
        return "\n".join([*comments, ""])
    command = [uv.find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-config", "--color", "never"]
    # Nothing is resolved: every version is pinned, and tests check that the lists are complete.
    command += ["--no-deps", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    done = subprocess.run(  # noqa: S603 # uv's own binary
        command, input="\n".join(named), env=index_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {path.name} cannot be hashed: {done.stderr.strip()}")
    return "\n".join([*comments, done.stdout])


def main() -> None:
    """Write the lists whose hashes changed."""
    for path in sorted(FOLDER.glob("*.txt")):
        text = hashed(path)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    main()
