"""Log lines say which model they are about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUNTIME = Path(__file__).parents[3] / "lambda_src"
SCRIPT = """
import json, logging, sys
from inference_runtime.logs import add_to_log_lines

class Members(logging.Formatter):  # as Lambda's JSON format: what the record has beyond the usual
    def format(self, record):
        return json.dumps({"message": record.getMessage(), "model_version": record.__dict__.get("model_version")})

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Members())
logging.getLogger().addHandler(handler)
logging.getLogger("before").error("one")
add_to_log_lines(model_version="abc")
logging.getLogger("after").error("two %s", 2)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library.of.somebody").exception("three")
"""


def test_every_line_has_the_fields_from_then_on() -> None:
    """A separate process: logging's handlers belong to the whole process."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=RUNTIME, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"message": "one", "model_version": None},
        {"message": "two 2", "model_version": "abc"},
        {"message": "three", "model_version": "abc"},
    ]
