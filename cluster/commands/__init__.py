"""The ``sparring`` command: typed functions and dataclasses become flags; no logic.

Comes in: a command line. Goes out: an exit code, a table or one JSON object.
Called by ``python -m sparring.cluster`` and ``sparring.py``, whose functions are here too (``api``).
"""

__all__ = ["api", "main"]
