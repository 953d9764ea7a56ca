"""A static file with some of its words replaced: its comments and its order stay as they are."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from sparring.cluster.errors import UsageError
from sparring.cluster.terminal import HOME

WIDTH = 120
HERE = Path(__file__).resolve().parent
BUILD = "-f cluster/deploy/Dockerfile ."


def static(name: str) -> str:
    """The text of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def paths(text: str, out: Path) -> dict[str, str]:
    """What its commands say about files of this folder -> the same after it was written into ``out``; what is not written stays here."""
    named = set(re.findall(r"(?<![\w/])cluster/deploy/[\w./-]*\w", text)) - {
        "cluster/deploy/Dockerfile",
        "cluster/deploy/nginx.conf",
    }
    changes = {name: shlex.quote(str(out / name.removeprefix("cluster/deploy/"))) for name in named}
    if BUILD in text and (HOME / "pyproject.toml").is_file():  # from a wheel there is no clone to name
        changes[BUILD] = f"-f {shlex.quote(str(HERE / 'Dockerfile'))} {shlex.quote(str(HOME))}"
    return changes


def filled(text: str, changes: Mapping[str, str]) -> str:
    """Every occurrence of every key replaced, all at once: what is put in is not looked through again."""
    missing = [old for old in changes if old not in text]
    assert not missing, f"the file does not hold {missing}"
    keys = sorted(changes, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, keys)), lambda m: changes[m[0]], text)


def replaced(text: str, pattern: str, new: Callable[[re.Match[str]], str]) -> str:
    """The one place that a pattern finds, replaced."""
    made, n = re.subn(pattern, new, text, flags=re.MULTILINE)
    assert n == 1, f"{pattern!r} is found {n} times"
    return made


def command(theirs: Sequence[str], ours: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words of a command: a recipe and flags of ours, then those of a file that we do not give otherwise.

    Args:
        theirs: the file's words: recipe, flags, values.
        ours: recipe and flags.
        values: what some of the file's flags get instead of their value.
    """
    given = {_flag(word) for word in ours if word.startswith("--")}
    groups: list[list[str]] = []
    for word in theirs[1:]:  # a flag with its values
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    kept = [[g[0], values[g[0]]] if g[0] in values else g for g in groups if _flag(g[0]) not in given]
    return [*ours, *(word for group in kept for word in group)]


def _flag(word: str) -> str:
    """How a flag is written in full: ``--placement.gpus_per_agent=1 -> --placement.gpus-per-agent``."""
    name = word.partition("=")[0].replace("_", "-")
    return "--placement.wait" if name == "--wait" else name


def wrapped(words: Sequence[str], indent: str, end: str = "") -> str:
    """Words in lines of at most 120 characters, broken between words; ``end`` stands where a line goes on."""
    lines = [indent]
    for word in words:
        longer = f"{lines[-1]}{'' if lines[-1] == indent else ' '}{word}"
        if len(longer) + len(end) > WIDTH and lines[-1] != indent:
            lines.append(f"{indent}{word}")
        else:
            lines[-1] = longer
    return f"{end}\n".join(lines)


def scalar(value: str) -> str:
    """A text as YAML takes it everywhere, in quotes unless it can be nothing else."""
    plain = re.fullmatch(r"(--|/)?[A-Za-z][\w./-]*", value, re.ASCII) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def through_ray(word: str) -> str:
    """A word that comes out of ``ray job submit`` as it went in: Ray joins words for Windows and gives the line to a shell.

    Raises:
        UsageError: a character that does not survive both.
    """
    if '"' in word or "\\" in word:
        raise UsageError(f'{word!r}: neither " nor \\ passes through ray job submit; choose another name')
    if re.search(r"\s", word):
        return re.sub(r"([$`])", r"\\\1", word)  # Ray puts it into double quotes
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word, flags=re.ASCII)


def entrypoint(words: Sequence[str]) -> list[str]:
    """Words for a shell whose command is ``ray job submit -- WORDS``."""
    return [shlex.quote(through_ray(word)) for word in words]
