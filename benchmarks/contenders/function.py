"""A function as Lambda starts it: import the handler, hand it one event, and say when the answer was there.

    python -I function.py HANDLER EVENT FOLDER…

The folders are the function's own and those of its layers, in the order of the path.
"""

# Lambda's runtime client has imported these before it imports a handler.
import json
import logging  # noqa: F401
import sys
import time

_, entry, event_file, *folders = sys.argv
sys.path[:0] = folders
module, _, name = entry.rpartition(".")
handler = getattr(__import__(module, fromlist=[name]), name)
with open(event_file, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be part of the time
    event = json.load(file)
answer = handler(event, None)
finished = time.perf_counter()

outputs = answer["groups"][0]["outputs"]
with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "outputs": outputs, "modules": sorted(sys.modules)}, sys.stdout)
