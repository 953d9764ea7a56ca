"""Errors that are part of the user interface. Each carries the exit code of its kind and says what to do next."""

from __future__ import annotations

from pathlib import Path

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
