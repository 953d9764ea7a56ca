"""A run on disk: its folder, lock, records, checkpoints and mirror, and the images that it was trained on.

Comes in: a ``RunConfig``, a path. Goes out: ``RunFolder``, ``Checkpoints``, ``Run``.
Called by whoever reads or writes a run; nothing here knows a network or Ray.
"""

__all__ = ["comparing", "folder", "images", "listing", "lock", "mirror", "records", "run"]
