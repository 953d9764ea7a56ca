"""What models say to questions that wait: those to the same version go through it together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparring.agents.cascade import Cascade
from sparring.agents.ensemble import Ensemble
from sparring.serve.catalogue import NotFiniteError
from sparring.serve.versions import Served


@dataclass(frozen=True, slots=True)
class Question:
    """Images for one version."""

    name: str
    number: int
    served: Served
    x: np.ndarray  # [B, C, H, W] float32 in [0, 1]


def answer(asked: Sequence[Question]) -> list[dict[str, np.ndarray] | Exception]:
    """What versions say to the questions of several requests; those to the same version go through it together.

    Returns:
        one answer per question, in order: ``logits`` and ``probabilities`` [B, K], of an ensemble ``disagreement`` [B], of a cascade
        ``large`` [B], 1 where the large network has answered, all float32; or what the version raised. What one does harms no other.
    """
    answers: list[dict[str, np.ndarray] | Exception] = [RuntimeError("not asked")] * len(asked)
    together: dict[int, list[int]] = {}
    for i, question in enumerate(asked):
        together.setdefault(id(question.served), []).append(i)
    for indices in together.values():
        first = asked[indices[0]]
        x = first.x if len(indices) == 1 else np.concatenate([asked[i].x for i in indices])
        try:
            whole = _predict(first.served, x)
        except Exception as error:  # of this version; the others' answers stand
            for i in indices:
                answers[i] = error
            continue
        if len(indices) == 1:
            answers[indices[0]] = _finite(first, whole)
            continue
        end = 0
        for i in indices:
            start, end = end, end + len(asked[i].x)
            answers[i] = _finite(asked[i], {k: v[start:end] for k, v in whole.items()})
    return answers


def _predict(served: Served, x: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        images = torch.from_numpy(np.ascontiguousarray(x)).to(served.device)
        if isinstance(served.model, Cascade | Ensemble):
            logits, beside = served.model.decide(images)
            name = "large" if isinstance(served.model, Cascade) else "disagreement"
            told = {name: _array(beside.float())}
        else:
            logits, told = served.model(images), {}
        return {"logits": _array(logits), "probabilities": _array(logits.softmax(1)), **told}


def _finite(question: Question, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray] | Exception:
    """The answer, or an error where it holds numbers that are none: JSON has no word for them, and nobody can use them."""
    if math.isfinite(float(answer["logits"].sum())) or np.isfinite(answer["logits"]).all():
        return answer
    first = int(np.isfinite(answer["logits"]).all(axis=1).argmin())
    return NotFiniteError(
        f"model {question.name!r} version {question.number} answers numbers that are not finite to image {first} of this request"
    )


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
