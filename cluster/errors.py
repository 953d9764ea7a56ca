"""Errors that are part of the user interface. Each carries the exit code of its kind and says what to do next."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.cluster.terminal import relative
from sparring.trainers.trusting import Untrusted as Untrusted


class SparringError(Exception):
    """Base: an error whose text is for the user."""

    code = 1

    @classmethod
    def told(cls, text: str, code: int) -> SparringError:
        """An error that another process had, with its exit code."""
        error = SparringError(text)
        error.code = code
        return error


class UsageError(SparringError):
    """A flag, name or value that is not allowed."""

    code = 2


class Exists(SparringError):
    """The action would overwrite something, or another process holds the run."""

    code = 3


class DataError(SparringError):
    """The images cannot be used."""

    code = 4


class BrokenCheckpoint(SparringError):
    """No checkpoint can be read."""

    code = 5


class NoResources(SparringError):
    """The cluster does not have what the run needs."""

    code = 6


class TrainingStopped(SparringError):
    """Training cannot go on: NaN or collapse."""

    code = 7


class Infrastructure(SparringError):
    """Too many failures of processes or nodes; the run can be resumed."""

    code = 8


class Interrupted(SparringError):
    """Stopped by a signal after saving; the run can be resumed."""

    code = 130


FULL = {
    errno.EIO: (
        "input/output error",
        "See what the system says of the disk (dmesg), or bring the folder to another one",
    ),
    errno.ENOSPC: ("no space left on the device", "Free some there"),
    errno.EDQUOT: ("the disk quota is used up", "Free some there"),
    errno.EROFS: ("read-only file system", "Make it writable"),
}


def of_disk(error: BaseException, safe: str, again: str) -> Infrastructure | None:
    """What a user is told of a disk that is full or cannot be written; None for any other error.

    Args:
        safe: what is not lost, as a sentence.
        again: the command that goes on.
    """
    for behind in _chain(error):
        if isinstance(behind, SparringError):
            return None
        of = _number(behind)
        if of is not None:
            what, remedy = FULL[of]
            where = relative(getattr(behind, "filename", None) or "a file")
            verb = "read or written" if of == errno.EIO else "written"
            return Infrastructure(f"{where} cannot be {verb}: {what}. {safe}. {remedy}, then: {again}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what is behind it, each once: an actor's error and Ray's wrapper of it may each be the other's cause."""
    seen: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and not any(behind is other for other in seen):
        yield behind
        seen.append(behind)
        behind = getattr(behind, "cause", None) or behind.__cause__  # "cause": of Ray's own wrapper


def _number(error: BaseException) -> int | None:
    """Which of ``FULL`` an error is. A copied tree's has no number of its own, but those of its files in its text."""
    if not isinstance(error, OSError):
        return None
    if error.errno is not None:
        return error.errno if error.errno in FULL else None
    return next((number for number in FULL if f"[Errno {number}]" in str(error)), None)


@contextmanager
def disk(kept: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Inside the block an error of a full disk, or of one that cannot be written, becomes what a user is told.

    Args:
        kept: what is not lost, and the command that goes on, as :func:`of_disk` takes them.
    """
    try:
        yield
    except Exception as error:
        told = of_disk(error, *kept())
        if told is None:
            raise
        raise told from error


def sentence(error: BaseException) -> str:
    """An error as one line of a record: its text, with its kind where the text is not meant for users."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once by a signal"
    return text if exit_code(error) != 1 else f"{type(error).__name__}: {text}"


def exit_code(error: BaseException) -> int:
    """That of a command which ends with ``error``: its kind's; 2 for a value that is not allowed; 1 for what nobody expected."""
    if isinstance(error, SparringError):
        return error.code
    return 2 if isinstance(error, (ValueError, Untrusted)) else 1


def of_agent(cause: BaseException, good: Path | None) -> BaseException:
    """What a user is told of an error that an agent raised; any other is itself.

    Args:
        good: the last good checkpoint, if there is one.
    """
    from sparring.agents.checkpoint import CheckpointError  # late: the commands' help needs no torch
    from sparring.agents.state import NotFinite, TooLarge
    from sparring.trainers.encoded.decoding import Unanswered, Undecodable

    if isinstance(cause, NotFinite):
        return TrainingStopped(
            f"training stopped itself: {cause}. The last good checkpoint is {good or 'none'}. "
            "Try a lower --optim.lr or a warm-up (--optim.warmup 1)"
        )
    if isinstance(cause, TooLarge):
        return NoResources(str(cause))
    if isinstance(cause, CheckpointError):
        return BrokenCheckpoint(str(cause))
    if isinstance(cause, Undecodable):
        return DataError(str(cause))
    if isinstance(cause, Unanswered):
        return Infrastructure(str(cause))
    return cause
