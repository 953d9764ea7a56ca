"""The agents of a run, in this process or as Ray actors, behind one protocol.

Comes in: a ``RunConfig``. Goes out: a ``Team``, whose verbs take and give references; what counts as a lost process.
Called by ``training/`` and ``pretraining/``.
"""

__all__ = ["assemble", "failures", "team"]
