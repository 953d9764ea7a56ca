"""The claims' arithmetic, and the whole of one claim in miniature."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert len(pairs) == 4  # mat_2 against at and at_ema, best and last
    begun = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.jsonl")}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in again.stdout.splitlines() if line.startswith("{'a'")] == pairs
    assert {p: p.stat().st_mtime_ns for p in begun} == begun
