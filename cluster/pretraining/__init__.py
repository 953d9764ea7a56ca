"""One network trained data-parallel by Ray Train, then evaluated and published.

Comes in: a ``RunConfig`` with one agent. Goes out: a run, a published model, its card.
Called by the commands.
"""

__all__ = ["pretrain"]
