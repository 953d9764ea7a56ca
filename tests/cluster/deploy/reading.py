"""Deploy files as those who carry them out read them: the words that arrive, and what Sparring makes of these."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import jsonschema
import yaml

from sparring.cluster.commands.asking import Verb, asked, decimals, searched
from sparring.cluster.commands.training import Train, Tune
from sparring.cluster.config.run_config import RunConfig
from tests.helpers import CLONE

DEPLOY = CLONE / "cluster" / "deploy"
KUBERAY = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())


def manifest(file: Path) -> dict[str, Any]:
    """A manifest of KubeRay that holds nothing but keys which there are."""
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    jsonschema.validate(found, KUBERAY)
    return found


def by_shell(line: str) -> list[str]:
    """The words that a shell gives to a program, ``$RUNS``, ``$DATA`` and ``$address`` being folders and an address."""
    known = 'RUNS="/shared/runs" DATA="/shared/data" address=10.0.0.1:6379'
    script = f"{known}; printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def by_ray(line: str) -> list[str]:
    """The words that arrive where a shell runs ``ray job submit -- LINE``: Ray joins them again and gives them to another."""
    return by_shell(list2cmdline(by_shell(line)))


def sparrings(words: list[str]) -> tuple[Any, RunConfig]:
    """What Sparring makes of a command's words: ``python -m sparring.cluster train ...`` or ``sparring train ...``."""
    verb, *rest = words[1:] if words[0] == "sparring" else words[words.index("sparring.cluster") + 1 :]
    kind: Any = {"train": Train, "tune": Tune}[verb]
    return asked(decimals(searched(rest)[1] if verb == "tune" else rest), kind, Verb(verb, "", example=""))


def commands(file: Path) -> list[list[str]]:
    """Every command of Sparring's in a file, comments and continued lines included, as words that arrive."""
    text = file.read_text()
    if file.name.startswith("rayjob"):
        return [by_ray(manifest(file)["spec"]["entrypoint"])]
    if file.name.startswith("compose"):
        return [service["command"] for service in composed(file)["services"].values() if "command" in service]
    if file.name == "cluster.yaml":
        (line,) = re.findall(r"^#   ray job submit .*? -- ((?:.*\\\n)*.*)$", text, re.MULTILINE)
        return [by_ray(re.sub(r"\\\n#\s+", "", line))]
    (line,) = re.findall(r"^    (python -m sparring\.cluster (?:.*\\\n)*.*) &$", text, re.MULTILINE)
    return [by_shell(line.replace("\\\n", " "))]


def composed(file: Path) -> dict[str, Any]:
    """A compose file with ``$$`` read as a dollar; a single one would be a variable."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        assert not isinstance(value, str) or "$" not in value.replace("$$", "")
        return value.replace("$$", "$") if isinstance(value, str) else value

    return dict(plain(yaml.safe_load(file.read_text())))


def assigned(script: Path, name: str) -> str:
    """What a variable of a batch script is by default."""
    (line,) = re.findall(rf"^{name}=\S.*$", script.read_text(), re.MULTILINE)
    done = subprocess.run(["bash", "-c", f'{line}\nprintf %s "${name}"'], capture_output=True, text=True, check=True)
    return done.stdout


def steps(text: str) -> list[list[str]]:
    """Words of the commands in a file's comments."""
    lines = re.findall(r"^#   ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [shlex.split(re.sub(r"\\\n#\s+", "", line), comments=True) for line in lines]
