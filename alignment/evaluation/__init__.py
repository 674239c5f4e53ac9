"""Measuring: data sets, methods and baselines, runs that can go on where they stopped, and their results."""
