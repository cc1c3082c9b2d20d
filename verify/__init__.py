"""Show what ships to outside judges, and to machines that this one is not.

Developers and CI use it; the wheel does not contain it. Where another CPU is involved, it is emulated.
"""
