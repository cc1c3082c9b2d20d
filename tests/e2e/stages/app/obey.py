"""A preprocessing function that does what the object says."""

import json
import os
import signal
import time

import numpy as np
from words import REFUSAL

from inference_runtime import RejectItem


def preprocess(data, item):
    order, _, rest = data.partition(b" ")
    if order == b"exit":
        os._exit(1)
    if order == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == b"sleep":
        time.sleep(3600)
    if order == b"raise":
        raise RuntimeError("as it was told")
    if order == b"refuse":
        raise RejectItem(REFUSAL)
    if order == b"return":
        return np.array(json.loads(rest), np.float32)
    raise RejectItem(f"no such order: {order[:20]!r}")


def keep(data, item):
    return {"numbers": preprocess(data, item), "order": data.partition(b" ")[0].decode(), "about": {"bytes": len(data)}}
