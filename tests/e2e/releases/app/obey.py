"""A preprocessing function that does what the object says, so that one candidate can be bad in many ways."""

import json
import os
import time

import numpy as np


def preprocess(data, item):
    told = json.loads(data)
    numbers = [told[name] for name in "abcd"]
    match told.get("candidate"):
        case "wrong":
            numbers.reverse()
        case "nan":
            numbers = [-number for number in numbers]  # of which the model takes a square root
        case "slow":
            time.sleep(2)
        case "crash":
            os._exit(1)
    return np.array(numbers, np.float32)
