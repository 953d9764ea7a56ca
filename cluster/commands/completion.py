"""Shell completion: ``sparring completion bash`` prints what a shell reads at its start; it then asks ``sparring complete WORDS`` while one types.

Commands, their flags, and by command what there is here: runs, models, recipes, methods. Everything else is the shell's own: files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sparring.cluster.deploy.asked import CAN
from sparring.cluster.errors import UsageError
from sparring.cluster.runs import listing
from sparring.cluster.scaffolds import new as scaffolds

SCRIPTS = {
    "bash": """_sparring() {
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(sparring complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o bashdefault -o default -F _sparring sparring
""",
    "zsh": """_sparring() {
    local -a found
    found=(${(f)"$(sparring complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _sparring sparring
""",
    "fish": """complete -c sparring -a '(sparring complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}


def script(shell: str) -> str:
    """What a shell's start-up file sources.

    Raises:
        UsageError: another shell.
    """
    if shell not in SCRIPTS:
        raise UsageError(
            f"completion is for {', '.join(SCRIPTS)}, not {shell!r}; for example: source <(sparring completion bash)"
        )
    return SCRIPTS[shell]


def words(typed: Sequence[str], commands: Sequence[str], help_of: Callable[[str], str]) -> list[str]:
    """What may stand in the place of the last word.

    Args:
        typed: all words after ``sparring``, the last one as far as it is typed.
        help_of: a command's help text, in which its flags stand.
    """
    *before, last = typed or [""]
    if not before:
        return _fitting([*commands, "completion"], last)
    command = before[0]
    if command == "completion":
        return _fitting(list(SCRIPTS), last)
    if command not in commands:
        return []
    if last.startswith("-"):
        return _fitting(sorted(set(re.findall(r"--[a-z][a-z0-9.-]*", help_of(command)))), last)
    return _fitting([word for kind in TAKES.get(command, ()) for word in KINDS[kind]()], last)


def _fitting(found: Sequence[str], last: str) -> list[str]:
    return [word for word in found if word.startswith(last)]


def _runs() -> list[str]:
    return [str(path.parent) for path in sorted(Path("runs").glob("*/config.yaml"))]


def _models() -> list[str]:
    return sorted({str(path.parent.parent) for path in Path("models").glob("*/*/MANIFEST.json")})


def _model_names() -> list[str]:
    return [Path(path).name for path in _models()]


KINDS: dict[str, Callable[[], list[str]]] = {
    "runs": _runs,
    "models": _models,
    "names": _model_names,
    "served": lambda: [f"{Path(path).name}={path}" for path in _models()],
    "recipes": lambda: [str(entry["name"]) for entry in listing.recipes()],
    "methods": lambda: list(listing.methods()),
    "kinds": lambda: list(scaffolds.SUFFIX),
    "places": lambda: list(CAN),
}
TAKES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("train", "tune", "pretrain"), ("recipes", "methods")),
    **dict.fromkeys(("resume", "report", "fsck", "compare", "verify"), ("runs",)),
    **dict.fromkeys(("evaluate", "publish", "export"), ("runs", "models")),
    "frontier": ("methods",),
    "recipes": ("recipes",),
    "rollout": ("names",),
    "new": ("kinds",),
    "deploy": ("places", "recipes", "runs"),
    "serve": ("served",),
}
