"""Deploy the app in the current folder to an embedded AWS, upload a file, and print its row as JSON."""

from __future__ import annotations

import json
import sys

from cdk_inference.local import LocalCloud

if __name__ == "__main__":
    with LocalCloud() as cloud:
        cloud.deploy(".", on_line=lambda line: sys.stderr.write(f"{line}\n"))
        (outcome,) = cloud.wait_for(cloud.put(*sys.argv[1:]))
    sys.stdout.write(json.dumps([outcome.key, outcome.status, outcome.label, outcome.reason]))
