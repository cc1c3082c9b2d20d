"""Run what ships on machines that this one is not: emulated CPUs, and the architecture and Python of the functions.

Developers and CI use it; the wheel does not contain it. Everything that runs here is emulation, not hardware.
"""
