"""Subjects to measure: `measure(settings)` of each module returns its figures."""
