"""What is measured: `measure(settings)` of each module returns its figures."""
