"""Data sets before a run: every image is read and decoded once, and what cannot be is named.

Comes in: the name of a data set, its folder or URI. Goes out: what is bad, sizes, classes, duplicates; kept beside the index.
Called by the commands. How images are found and read is ``trainers/encoded/``.
"""

__all__ = ["check"]
