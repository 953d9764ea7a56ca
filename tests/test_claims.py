"""The claims' arithmetic, and the whole of one claim in miniature."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sparring.trainers.config import Threat
from tests.helpers import CLONE

CIFAR = CLONE.parent / "shared" / "data" / "cifar10"


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CLONE / "benchmarks"))
    return importlib.import_module("claims")


def row(*seeds: list[int]) -> list[dict[str, Any]]:
    """A network's verdicts per seed, as the pieces keep them."""
    return [{"best": {"right": np.packbits(np.array(s, bool)).tobytes().hex()}} for s in seeds]


def test_a_difference_and_its_intervals(claims: Any) -> None:
    """Two seeds of four images: differences 0.5 and 0.25; t with one degree of freedom, and the spread of the images' means."""
    found = claims.difference(row([1, 1, 1, 0], [1, 1, 0, 0]), row([1, 0, 0, 0], [0, 1, 0, 0]), "best", 4)
    assert found["seeds"] == [0.5, 0.25]
    assert found["mean"] == 0.375
    half = 12.71 * np.std([0.5, 0.25], ddof=1) / np.sqrt(2)
    assert found["over_seeds"] == pytest.approx([0.375 - half, 0.375 + half])
    half = 1.96 * np.std([0.5, 0.5, 0.5, 0.0], ddof=1) / 2
    assert found["over_examples"] == pytest.approx([0.375 - half, 0.375 + half])
    assert found["verdict"] == "not seen"


@pytest.mark.parametrize(
    ("over_seeds", "over_examples", "said"),
    [
        ((0.01, 0.03), (0.01, 0.02), "seen"),
        ((-0.01, 0.03), (0.01, 0.02), "not seen"),
        ((0.01, 0.03), (-0.01, 0.02), "not seen"),
        ((-0.03, -0.01), (-0.02, -0.01), "refuted"),
        ((-0.03, 0.01), (-0.02, -0.01), "not seen"),
    ],
)
def test_a_verdict_needs_both_intervals(
    claims: Any, over_seeds: tuple[float, float], over_examples: tuple[float, float], said: str
) -> None:
    assert claims.verdict({"over_seeds": over_seeds, "over_examples": over_examples}) == said


def test_weighted_is_the_mean_of_clean_and_robust(claims: Any) -> None:
    """Of four images the first network has all right and two robust, the second two right and one robust."""
    a = [
        {"last": {"right": claims.digits(np.array([1, 1, 0, 0], bool)), "right_clean": claims.digits(np.ones(4, bool))}}
    ]
    b = [
        {
            "last": {
                "right": claims.digits(np.array([1, 0, 0, 0], bool)),
                "right_clean": claims.digits(np.array([1, 1, 0, 0], bool)),
            }
        }
    ]
    assert claims.difference(a, b, "last", 4)["mean"] == 0.25
    assert claims.difference(a, b, "last", 4, "weighted")["mean"] == 0.375


def seen(clean: float, *robust: float) -> dict[str, Any]:
    """A checkpoint of a claim's record."""
    return {
        "clean": [clean] * len(robust),
        "pgd-20": list(robust),
        "autoattack": list(robust),
        "threats": [{"linf-0.03": r + 0.1, "l2-0.25": r} for r in robust],
    }


def test_what_is_shown_of_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a column for every threat, a sentence a pair, a point a network."""
    monkeypatch.syspath_prepend(str(CLONE / "docs"))
    claimed = importlib.import_module("claimed")
    pair = {"a": "mat_multi", "b": "avg", "checkpoint": "best", "mean": 0.02, "verdict": "seen"}
    result = {
        "rows": {
            "mat_multi": {"passes": 50_000, "best": seen(0.6, 0.2, 0.3), "last": seen(0.7, 0.1, 0.1)},
            "avg": {"passes": 20_000, "best": seen(0.5, 0.2, 0.2)},
        },
        "pairs": [pair | {"over_examples": [0.01, 0.03], "over_seeds": [0.001, 0.04]}],
        "threats": ["linf:8/255", "l2:0.25"],
        "measure": "robust",
        "setting": {"data": "images", "data.fraction": 0.04, "network": "net", "epochs": 3},
        "seeds": [0, 1],
        "n": 100,
        "seed": 0,
        "versions": {"torch": "2"},
        "device": "a CPU",
        "command": "python x.py",
    }
    table = claimed.claim(result)
    head, _, first, second = table.splitlines()[:4]
    assert "linf:8/255, best" in head
    assert first == (
        "| MAT's generalist | 50 | 25.0 (20 30) | 60.0 | 25.0 | 35.0 | 25.0 | 10.0 (10 10) | 70.0 | 10.0 | 20.0 | 10.0 |"
    )
    assert second.count("|") == first.count("|")
    assert "4 % of the training images" in table
    assert (
        "+2.0 points of AutoAttack, union (+1.0 to +3.0 over examples, +0.1 to +4.0 over seeds): **seen**"
        in claimed.sentences(result)
    )
    drawn = ElementTree.fromstring(claimed.picture({"multi_norm": result}))
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}circle")) == 2


def test_every_row_and_pair_of_a_claim_is_there(claims: Any) -> None:
    for claim in claims.CLAIMS.values():
        assert {r.piece for r in claim.rows.values()} <= set(claim.pieces)
        assert {label for pair in claim.pairs for label in pair} <= set(claim.rows)
        setting = claims.SETTINGS[claim.setting]
        for piece in claim.pieces.values():
            config = piece.config(7, setting)
            assert config.seed == 7
            assert config.epochs >= setting["epochs"]
            assert {t.norm for t in map(Threat.parse, claim.threats)} >= set(config.attacks)


def test_a_name_means_one_network_in_one_setting(claims: Any) -> None:
    """Claims of one setting share what was measured by the names of rows."""
    known: dict[tuple[str, str, int], Any] = {}
    for claim in claims.CLAIMS.values():
        for label, row in claim.rows.items():
            meant = (row, claim.pieces[row.piece])
            assert known.setdefault((label, claim.setting, len(claim.threats)), meant) == meant


@pytest.mark.soak
@pytest.mark.skipif(not CIFAR.exists(), reason="CIFAR-10 is not at hand")
def test_a_claim_in_miniature(tmp_path: Path) -> None:
    """Three networks of MAT's with two seeds; a second call trains nothing and says the same."""
    command = [sys.executable, str(CLONE / "benchmarks" / "claims.py"), "mat", f"--runs-dir={tmp_path / 'runs'}"]
    command += [f"--data-root={CIFAR}", "--seeds", "0", "1", "--examples=2", "--only", "at", "at_ema", "mat_2"]
    command += ["--set", "epochs=1", "data.fraction=0.004", "checkpoint.every=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pairs = [line for line in done.stdout.splitlines() if line.startswith("{'a'")]
    assert len(pairs) == 3  # mat_2 against at, best and last, and against at_ema, which is looked at where it is best
    begun = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.jsonl")}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in again.stdout.splitlines() if line.startswith("{'a'")] == pairs
    assert {p: p.stat().st_mtime_ns for p in begun} == begun
