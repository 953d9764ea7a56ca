"""Trained networks for other people's tools: programs that run without Sparring, weights, entries of others' collections.

Comes in: a ``Target`` and which of its networks. Goes out: a new folder, and what was seen when its program was run.
Called by the commands.
"""

__all__ = ["export", "push"]
