"""From a command line to an exit code: finds the command, turns errors into a sentence."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import tyro

from sparring.cluster.commands import completion
from sparring.cluster.commands.asking import decimals
from sparring.cluster.commands.cli import COMMANDS, RUNS
from sparring.cluster.commands.output import only_the_answer, trusted
from sparring.cluster.errors import UsageError, exit_code, of_disk
from sparring.cluster.machines.stop import start_library_threads, terminate_interrupts
from sparring.cluster.terminal import HOME
from sparring.trainers import trusting, user

STARTS_RAY = ("demo", "train", "resume", "pretrain", "tune", "frontier", "evaluate", "serve")

SLOW_TO_START = (*STARTS_RAY, "report", "publish", "export", "push", "pull", "verify", "deploy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and turn errors into a sentence and an exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug, helps = "--debug" in args, bool({"-h", "--help"} & set(args))
    try:
        told = _said(args)
        if told is not None:
            print(told, flush=True)
            return 0
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"command {args[0]!r} is unknown.{hint} Commands: {', '.join(COMMANDS)}")
        trusting.admit(trusted(args))
        rest = decimals(args[1:])
        with terminate_interrupts(), only_the_answer("--json" in args and not helps):
            if args[0] in STARTS_RAY and not helps:
                start_library_threads()
            if args[0] in SLOW_TO_START and not helps and "--quiet" not in args:
                print(f"sparring {args[0]}: loading", file=sys.stderr, flush=True)  # PyTorch takes seconds
            if COMMANDS[args[0]] in RUNS:
                COMMANDS[args[0]](rest)
            else:
                tyro.cli(COMMANDS[args[0]], args=rest, prog=f"sparring {args[0]}")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except KeyboardInterrupt:
        more = ""
        if args[0] in ("demo", "train", "resume", "pretrain"):
            more = "; continue a run with: sparring resume RUN"
        elif args[0] == "evaluate":
            more = "; finished blocks are kept, the same command goes on"
        print(f"stopped at once{more}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has seen enough
        return 0
    except Exception as error:
        if debug:
            raise
        error = of_disk(error, "Nothing that was finished before is lost", "the same command again") or error
        error = user.placed(error)  # type: ignore[assignment]  # an Exception stays one
        code = exit_code(error)
        name = "" if code != 1 else f"{type(error).__name__}: "
        print(f"sparring: {name}{error}" + ("" if code != 1 else f" ({_where(error)})"), file=sys.stderr)
        return code
    return 0


def _where(error: BaseException) -> str:
    """The last line of a user's own file on the way to an error, where there is one."""
    ours, libraries = str(HOME), ("site-packages", "<", "/lib/python")
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(ours) and not any(x in f.filename for x in libraries)]
    return f"{own[-1].filename}, line {own[-1].lineno}; --debug shows all" if own else "--debug shows where"


def _said(args: Sequence[str]) -> str | None:
    """What is answered in words, without a command's work; None where there is a command.

    Raises:
        UsageError: completion for an unknown shell.
    """
    if not args or args[0] in ("-h", "--help"):
        return _overview()
    if args[0] == "--version":
        return f"sparring {import_module('sparring').__version__}"
    if args[0] == "completion":
        return completion.script(args[1] if args[1:] else "")
    return "\n".join(_completed(args[1:])) if args[0] == "complete" else None


def _completed(typed: Sequence[str]) -> list[str]:
    """What a shell may put in the place of the last word."""

    def help_of(command: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main([command, "--help"])
        return printed.getvalue()

    return completion.words(typed, list(COMMANDS), help_of)


def _overview() -> str:
    lines = [f"  {name:9} {(f.__doc__ or '').strip().splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sparring COMMAND ...",
            "",
            "Trains image classifiers that make each other robust to adversarial examples.",
            "",
            *lines,
            "",
            "First steps: sparring demo. Help of a command: sparring COMMAND --help",
            "Version: sparring --version. Completion: source <(sparring completion bash), or zsh, fish",
        ]
    )
