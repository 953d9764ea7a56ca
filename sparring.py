"""Sparring: train image classifiers that make each other robust. The public Python API and the ``sparring`` command.

This file is a package: ``__path__`` names the folder that holds ``trainers/``, ``agents/``, ``cluster/`` and ``serve/``, so they
are ``sparring.trainers`` and so on, and nothing of ours is importable by a name that may be somebody else's.

run    = sparring.train(sparring.recipe("mat-digits", **{"epochs": 2, "attack.eps": 0.1}))
model  = sparring.load(run.path, agent="peer0")
adv    = sparring.attack(model, x, y, norm="linf", eps=0.1, steps=10)
result = sparring.evaluate(model, "digits", attacks=["clean", "pgd-20"], threats=["linf:0.1"])
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).resolve().parent
_HOMES = (_HERE / "sparring-code", _HERE)  # beside this file in a wheel; in a clone the folder of this file
__path__ = [str(home) for home in _HOMES if (home / "trainers" / "methods" / "mat.py").is_file()][:1]
if not __path__:
    raise ImportError(
        f"sparring.py stands in {_HERE} without the folders cluster/, agents/ and trainers/: it was copied away from them. "
        "Install the clone in place: pip install -e ."
    )

if TYPE_CHECKING:
    from sparring.cluster.commands.api import (
        verify,
    )

__version__ = "0.2.0"
__all__ = [  # the API: what is removed from it warns for one version first
    *(
        "attack",
        "errors",
        "evaluate",
        "frontier",
        "load",
        "main",
        "pretrain",
        "publish",
        "recipe",
        "report",
        "resume",
        "train",
        "trust_code",
        "tune",
    ),
    "verify",
]


def __getattr__(name: str) -> Any:
    """The API, when it is asked for; ``sparring.errors``: what its functions raise, besides ValueError."""
    if name == "errors":
        return import_module("sparring.cluster.errors")
    if name in __all__:
        return getattr(import_module("sparring.cluster.commands.api"), name)
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def main() -> int:
    """The ``sparring`` command."""
    from sparring.cluster.commands.main import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
