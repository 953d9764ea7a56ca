"""The loop: a run from its configuration to its last checkpoint, whatever is lost on the way.

Comes in: a ``RunConfig`` and ``Circumstances``. Goes out: a ``Run``; lines, records and alarms while it goes.
Called by the commands, by ``search/`` for each trial, by the Python API.
"""

__all__ = ["job", "launch", "monitors", "on_demand", "plan", "progress", "saving", "startup"]
