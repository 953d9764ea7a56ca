"""``--log tensorboard,csv``: the names of trackers (``cluster/trackers``)."""

from __future__ import annotations

HERE = ("tensorboard", "csv")  # files in the run's folder
APART = ("wandb", "mlflow")  # each in a process of its own, by a package of this name
NAMES = (*HERE, *APART, "none")


def parsed(text: str) -> tuple[str, ...]:
    """``"tensorboard, wandb"`` -> the names, each once; ``"none"`` -> no name.

    Raises:
        ValueError: another name, none at all, or none beside others.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in NAMES]
    if unknown or ("none" in names and len(names) > 1):
        wrong = f"{unknown[0]!r} is unknown" if unknown else "none goes with no other"
        raise ValueError(f"log = {text!r}: {wrong}; expected some of {', '.join(NAMES[:-1])}, or none")
    return () if names == ("none",) else names
