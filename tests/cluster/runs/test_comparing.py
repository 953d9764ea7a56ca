"""Runs side by side and in order, read from their files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparring.cluster.errors import UsageError
from sparring.cluster.runs.comparing import compare, show
from sparring.cluster.runs.listing import chosen, runs
from tests.conftest import Command


def made(folder: Path, method: str, *, eps: float, commit: str = "a", begun: float = 0.0) -> Path:
    """A run that has begun, with one evaluation."""
    evaluation = folder / "evaluation" / "1"
    evaluation.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"method:\n  name: {method}\nattack:\n  eps: {eps}\nepochs: 2\n")
    os.utime(folder / "config.yaml", (begun, begun))
    (folder / "env.json").write_text(json.dumps({"commit": commit, "cpu": "x", "versions": {"torch": "2"}}))
    threat = {"attacks": {"clean": 0.9, "pgd-20": 0.5}, "robust_accuracy": 0.5, "ci95": [0.4, 0.6]}
    entry = {"n": 100, "clean_accuracy": 0.9, "threats": {"linf:0.0313725": threat}}
    (evaluation / "report.json").write_text(json.dumps({"agents": {"student": entry}}))
    return folder


def test_only_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path / "one", "mat", eps=0.1)
    other = made(tmp_path / "other", "mat", eps=0.2, commit="b")
    found = compare([one, Path("other")], runs_dir=tmp_path)
    assert found["settings"] == {"attack.eps": [0.1, 0.2], "env.commit": ["a", "b"]}
    assert [(r["run"], r["robust"], r["measured"]) for r in found["results"]] == [
        (str(run), 0.5, "pgd-20 at linf:8/255") for run in (one, other)
    ]
    show(found)
    printed = capsys.readouterr().out
    assert "other@student" in printed
    assert "50.0 % [40.0, 60.0]" in printed
    assert max(map(len, printed.splitlines()[:8])) <= 100


def test_settings_that_one_run_does_not_have(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", "mat", eps=0.1), made(tmp_path / "other", "mat", eps=0.1)
    (other / "config.yaml").write_text((other / "config.yaml").read_text() + "search:\n  trials: 3\n")
    assert compare([one, other])["settings"] == {"search.trials": ["-", 3]}
    (other / "env.json").unlink()
    assert "env.commit" in compare([one, other])["settings"]


@pytest.mark.parametrize(
    ("names", "why"), [([], "two runs or more"), (["one"], "two runs or more"), (["one", "none"], "none is not a run")]
)
def test_what_cannot_be_compared(names: list[str], why: str, tmp_path: Path) -> None:
    made(tmp_path / "one", "mat", eps=0.1)
    with pytest.raises(UsageError, match=why):
        compare([Path(name) for name in names], runs_dir=tmp_path)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", "mat", eps=0.1), made(tmp_path / "other", "mat", eps=0.1)
    (other / "config.yaml").write_text("[1, 2]\n")
    with pytest.raises(UsageError, match=r"other/config\.yaml is no run's"):
        compare([one, other])


def test_runs_by_words_and_in_order(tmp_path: Path) -> None:
    made(tmp_path / "b-first", "mat", eps=0.1, begun=100.0)
    made(tmp_path / "a-second", "trades", eps=0.1, begun=200.0)
    (tmp_path / "c-strange").mkdir()
    (tmp_path / "c-strange" / "config.yaml").write_text("nothing")
    found = runs(tmp_path)

    def names(words: list[str], sort: str) -> list[str]:
        return [Path(r["run"]).name for r in chosen(found, words, sort)]

    assert names([], "name") == ["a-second", "b-first", "c-strange"]
    assert names([], "begun")[:2] == ["a-second", "b-first"]
    assert names([], "method") == ["b-first", "a-second", "c-strange"]
    assert names(["mat"], "name") == ["b-first"]
    assert names(["trades", "second"], "best") == ["a-second"]


def test_commands(sparring: Command) -> None:
    for name in ("one", "other"):
        made(Path("runs") / name, "mat", eps=0.1)
    done = sparring("compare", "one", "runs/other")
    assert done.returncode == 0, done.stderr
    assert "every setting is the same" in done.stdout
    assert sparring("compare", "one").returncode == 2
    assert sparring("runs", "nothing").stdout == "no run here has 'nothing' in its name or method\n"
    assert "runs/other" in sparring("runs", "other", "--sort=begun").stdout
