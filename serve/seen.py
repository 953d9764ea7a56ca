"""What a model was seen to answer: how sure it was, which classes, and how far its members disagreed. Where inputs drift, these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Seen:
    """Sums over images."""

    confidence: float = 0.0  # of the probabilities of the classes that were answered
    disagreement: float | None = None  # of an ensemble: of the shares of members with another class
    classes: dict[int, int] = field(default_factory=dict)  # images by class

    def add(self, answer: Mapping[str, Any]) -> None:
        """One answer: ``probabilities`` [B, K], of an ensemble ``disagreement`` [B]."""
        probabilities: np.ndarray = answer["probabilities"]
        self.confidence += float(probabilities.max(1).sum())
        for index in probabilities.argmax(1).tolist():
            self.classes[index] = self.classes.get(index, 0) + 1
        if "disagreement" in answer:
            self.disagreement = (self.disagreement or 0.0) + float(answer["disagreement"].sum())
