"""One class's score map to places: NumPy and numba alone."""
