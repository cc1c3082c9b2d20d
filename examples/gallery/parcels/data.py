"""Made-up parcels: will one be late? Some have no weight, and each has a carrier, which is a category."""

import numpy as np

CARRIERS = ["hermit", "swift", "turtle", "zebra"]


def parcels(count, seed):
    """Return distance, weight, weekday and number of the carrier, (count, 4) float32, and 1 for each late parcel."""
    random = np.random.default_rng(seed)
    distance = random.gamma(2.0, 150.0, count)
    weight = random.gamma(1.5, 4.0, count)
    weekday = random.integers(7, size=count)
    carrier = random.integers(len(CARRIERS), size=count)
    slow = np.array([0.5, -1.5, 2.0, 0.0])[carrier]
    late = distance / 200 + weight / 8 + slow + 1.5 * (weekday >= 5) + random.normal(0, 0.5, count) > 3.5
    weight[random.random(count) < 0.15] = np.nan  # nobody weighed them
    features = np.stack([distance, weight, weekday, carrier], axis=1)
    return features.astype(np.float32), late.astype(np.int64)


def calibration():
    """Yield what quantization measures its ranges on."""
    yield {"parcels": parcels(200, seed=1)[0]}


def evaluation():
    """Yield parcels that training has not seen, with their labels."""
    features, late = parcels(1000, seed=2)
    yield {"parcels": features}, late
