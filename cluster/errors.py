"""Errors that are part of the user interface. Each carries the exit code of its kind and says what to do next."""

from __future__ import annotations


class SparringError(Exception):
    """Base: an error whose text is for the user."""

    code = 1


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
