"""Many runs that differ in a few settings, driven by Ray Tune.

Comes in: a ``Search``. Goes out: a folder with every trial, the best one as a run, its settings, a page.
Called by the commands and the Python API.
"""

__all__ = ["report", "results", "search", "settings"]
