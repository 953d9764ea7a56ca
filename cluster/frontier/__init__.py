"""Robustness against cost: the same budget spent on each of several methods.

Comes in: a ``Frontier``. Goes out: a folder with a run per method, budget and seed, a table, a page.
Called by the commands and the Python API.
"""

__all__ = ["cost", "frontier", "results", "settings"]
