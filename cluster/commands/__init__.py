"""The ``sparring`` command: typed functions and dataclasses become flags; no logic.

Comes in: a command line. Goes out: an exit code, a table or one JSON object.
Called by ``python -m sparring.cluster`` and ``sparring.main``.
"""

__all__ = ["main"]
