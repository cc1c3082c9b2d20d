"""What docs/operate/performance.md claims, measured: each figure against its rival, in one run on one machine.

`make bench` runs all of it; `python -m benchmarks --help` has the options.
"""
