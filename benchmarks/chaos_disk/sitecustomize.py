"""Python's own start in a scenario of ``chaos.py``.

fsync fails, as on a disk that breaks, while the file that SPARRING_CHAOS_FSYNC names is there; Ray is of the version that SPARRING_CHAOS_RAY says.
"""

import errno
import os

_flag = os.environ.get("SPARRING_CHAOS_FSYNC")
_version = os.environ.get("SPARRING_CHAOS_RAY")
_fsync = os.fsync


def _fails(handle: int) -> None:
    if _flag and os.path.exists(_flag):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _fsync(handle)


os.fsync = _fails  # type: ignore[assignment]
if _version:
    import ray

    ray.__version__ = _version
