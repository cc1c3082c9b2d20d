"""A fresh process that reads one object of S3.

    python -I s3_get.py CLIENT BUCKET KEY [FOLDER]

The folder has what the client imports. Endpoint, region, credentials and certificates come from the environment.
"""

import json
import sys
import time

_, client, bucket, key, *folders = sys.argv
sys.path[:0] = folders
began = time.perf_counter()
if client == "ours":
    from inference_runtime.s3.client import s3_client

    imported = time.perf_counter()
    data = s3_client().get(bucket, key)
elif client == "botocore":
    import botocore.session

    imported = time.perf_counter()
    s3 = botocore.session.get_session().create_client("s3")
    data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
elif client == "obstore":
    import obstore
    from obstore.store import S3Store

    imported = time.perf_counter()
    data = bytes(obstore.get(S3Store(bucket), key).bytes())
else:  # the interpreter alone
    imported = began
    data = b""
finished = time.perf_counter()

import os  # noqa: E402 - not part of what is measured
import zlib  # noqa: E402

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
answer = {
    "finished": finished,
    "peak_kib": peak,
    "import_ms": (imported - began) * 1000,
    "checksum": zlib.crc32(data),
    "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
}
json.dump(answer, sys.stdout)
