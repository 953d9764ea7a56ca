"""A configuration as words: what to type for a run that is there already, or that stands in a file."""

from __future__ import annotations

from typing import Any

from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import OPERATIONAL, RunConfig
from sparring.cluster.config.values import flat
from sparring.cluster.errors import UsageError

OF_ITS_PLACE = ("recipe", *OPERATIONAL, "data.root", "data.cache", "data.download")


def words(config: RunConfig, named: str) -> list[str]:
    """A recipe and the flags that come to what ``config`` computes.

    Args:
        named: how the user named it, for errors.

    Raises:
        UsageError: files of the user's own, which stand nowhere else, or a setting that no flag says.
    """
    if config.codes:
        files = ", ".join(sorted({code.main for code in config.codes}))
        raise UsageError(f"{named} uses files of its own ({files}); name the recipe and its flags instead of {named}")
    start = config.recipe or config.label
    made, peers = [start], getattr(config.method, "peers", None)
    base = recipe(start)
    if peers != getattr(base.method, "peers", None):
        made, base = [*made, "--peers", str(peers)], base.replace({"peers": peers})
    before = flat(base.to_dict())
    for path, value in flat(config.to_dict()).items():
        if not path.startswith(OF_ITS_PLACE) and value != before.get(path):
            made += _flag(path, value, named)
    return made


def _flag(path: str, value: Any, named: str) -> list[str]:
    name = path.replace("_", "-")
    if isinstance(value, bool):
        parent, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{parent}{dot}no-{last}"]
    if value is None or path.startswith(("changes.", "attacks.")):
        raise UsageError(
            f"{named}: {path} = {value} cannot be said by a flag; name the recipe and its flags instead of {named}"
        )
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{name}", *map(str, values)]
