"""Measures the claims of docs/operate/performance.md: each figure against its rival, in one run on one machine.

`make bench` runs all of it; `python -m benchmarks --help` has the options.
"""
