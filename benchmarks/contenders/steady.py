"""A process that keeps a model, and runs it as often as it is asked to.

    python -I steady.py ours FOLDERS… -- EVENT BATCH
    python -I steady.py theirs PACKAGES MODEL THREADS -- EVENT BATCH

On standard input, each line is a number of runs; each answer is the seconds that they took.
"""

import base64
import json
import sys
import time

_, side, *arguments = sys.argv
split = arguments.index("--")
where, (event_file, batch) = arguments[:split], arguments[split + 1 :]
with open(event_file, encoding="utf-8") as file:  # noqa: PTH123
    tensors = json.load(file)["groups"][0]["inputs"]
# The same item again and again: what it is does not change how long it takes.
inputs = {
    name: (
        tensor["dtype"],
        (int(batch), *tensor["shape"][1:]),
        base64.b64decode(tensor["data"]) * int(batch),
    )
    for name, tensor in tensors.items()
}

if side == "ours":
    sys.path[:0] = where
    from inference_runtime.engine.open_session import open_session
    from inference_runtime.tensors.tensor import Tensor

    session, _ = open_session()
    feeds = {name: Tensor(*described) for name, described in inputs.items()}

    def once():  # noqa: ANN201, D103
        return session.run(feeds)

    first = list(once()[0].values())
else:
    packages, model, threads = where
    sys.path.insert(0, packages)
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options)
    names = [output.name for output in session.get_outputs()]
    feeds = {name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in inputs.items()}

    def once():  # noqa: ANN201, D103
        return session.run(names, feeds)

    first = once()[0].astype(float).reshape(-1).tolist()

sys.stdout.write(json.dumps(first) + "\n")
sys.stdout.flush()
for line in sys.stdin:
    runs = range(int(line))
    began = time.perf_counter()
    for _ in runs:
        once()
    sys.stdout.write(f"{time.perf_counter() - began}\n")
    sys.stdout.flush()
