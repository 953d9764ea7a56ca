"""Answers that runs share: computed once, whoever is first, and never half written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import torch

from sparring.agents.memo import Memo
from sparring.trainers.types import Answer
from tests.helpers import TinyNet

CPU = torch.device("cpu")


def test_two_runs_at_the_same_step(tmp_path: Path) -> None:
    """Both compute, both write, both get what they computed; the third reads it."""
    memo, logits = Memo(tmp_path, TinyNet(), "batches"), torch.randn(4, 3)
    together = Barrier(8)

    def compute() -> Answer:
        together.wait(timeout=10)
        return Answer(logits)

    with ThreadPoolExecutor(8) as pool:
        for t in range(20):
            asked = [pool.submit(memo.answer, t, compute, device=CPU) for _ in range(8)]
            assert all(torch.equal(a.result().logits, logits) for a in asked)

    def never() -> Answer:
        raise AssertionError("it is known")

    assert all(torch.equal(memo.answer(t, never, device=CPU).logits, logits) for t in range(20))
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_weights_or_batches_have_answers_of_their_own(tmp_path: Path) -> None:
    made = [Memo(tmp_path, TinyNet(seed=s), b) for s, b in ((0, "a"), (1, "a"), (0, "b"))]
    for i, memo in enumerate(made):
        answer = Answer(torch.full((1,), float(i)))
        assert memo.answer(0, lambda answer=answer: answer, device=CPU).logits.item() == i  # type: ignore[misc]
    assert Memo(tmp_path, TinyNet(seed=1), "a").answer(0, lambda: made[0], device=CPU).logits.item() == 1  # type: ignore[arg-type, return-value]
