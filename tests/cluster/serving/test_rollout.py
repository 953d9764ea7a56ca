"""``sparring rollout``: what it writes, what it refuses, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command
from tests.serve.made import published


@pytest.fixture
def told(tmp_path: Path, sparring: Command) -> Any:
    for seed in range(3):
        published(tmp_path / "models" / "m", seed=seed)

    def run(*flags: str) -> dict[str, Any]:
        done = sparring("rollout", "m", *flags, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return run


def what(found: dict[str, Any]) -> tuple[Any, ...]:
    return found["version"], found["before"], found["canary"], found["share"], found["shadow"]


def test_from_canary_to_all_and_back(told: Any) -> None:
    assert what(told()) == (None, None, None, 0.0, None)
    assert what(told("--canary=3")) == (2, None, 3, 0.1, None)  # the newest but the canary answers
    assert what(told("--share=0.5", "--shadow=1")) == (2, None, 3, 0.5, 1)
    assert what(told("--to=3")) == (3, 2, None, 0.0, None)
    assert what(told("--back")) == (2, 3, None, 0.0, None)
    assert what(told("--back")) == (3, 2, None, 0.0, None)
    assert what(told("--shadow=1")) == (3, 2, None, 0.0, 1)
    assert what(told("--end")) == (3, 2, None, 0.0, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to=9"], "models/m has no version 9; there are 1, 2, 3"),
        (["--share=0.5"], "--share 0.5 of which no canary is named; add --canary VERSION"),
        (["--canary=3", "--share=2"], "--share: share 2.0; expected a number from 0 to 1"),
        (["--to=2", "--canary=2"], "version 2 answers already; try another, or let another answer first"),
        (["--back"], "models/m has answered by no other version before 3; name one with --to"),
    ],
)
def test_what_is_refused(flags: list[str], words: str, told: Any, sparring: Command) -> None:
    done = sparring("rollout", "m", *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert what(told()) == (None, None, None, 0.0, None)


def test_a_damaged_version_gets_no_share(told: Any, sparring: Command) -> None:
    (Path("models") / "m" / "3" / "model.safetensors").write_bytes(b"x")
    done = sparring("rollout", "m", "--canary=3")
    assert done.returncode == 2
    assert "version 3 cannot be served: " in done.stderr
    assert "model.safetensors is altered" in done.stderr


def test_no_such_model(sparring: Command) -> None:
    done = sparring("rollout", "none")
    assert done.returncode == 2
    assert "no published model in models/none; publish one: sparring publish RUN --as none" in done.stderr


def test_in_words(told: Any, sparring: Command) -> None:
    told("--canary=3", "--share=0.25", "--shadow=1")
    said = sparring("rollout", "m").stdout.splitlines()
    assert said == [
        "m: version 2 of 1, 2, 3 answers",
        "  canary: version 3 answers 25 % of requests that name none",
        "  shadow: version 1 is asked too, and disagreement counted in /metrics",
    ]
