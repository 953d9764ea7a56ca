"""A run on disk: its folder, lock, records, checkpoints and mirror, the images that it was trained on; runs and models by URI.

Comes in: a ``RunConfig``, a path, a URI. Goes out: ``RunFolder``, ``Checkpoints``, ``Run``.
Called by whoever reads or writes a run; nothing here knows a network or Ray.
"""

__all__ = ["comparing", "folder", "images", "listing", "lock", "mirror", "places", "records", "remote", "run"]
