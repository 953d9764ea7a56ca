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
    disagreement: float | None = None  # of an ensemble: of the divergence of its members, 0 to 1 each
    large: float | None = None  # of a cascade: images that its large network has answered
    classes: dict[int, int] = field(default_factory=dict)  # images by class

    def add(self, answer: Mapping[str, Any]) -> None:
        """One answer: ``probabilities`` [B, K], of an ensemble ``disagreement`` [B], of a cascade ``large`` [B]."""
        probabilities: np.ndarray = answer["probabilities"]
        self.confidence += float(probabilities.max(1).sum())
        for index in probabilities.argmax(1).tolist():
            self.classes[index] = self.classes.get(index, 0) + 1
        if "disagreement" in answer:
            self.disagreement = (self.disagreement or 0.0) + float(answer["disagreement"].sum())
        if "large" in answer:
            self.large = (self.large or 0.0) + float(answer["large"].sum())

    @property
    def images(self) -> int:
        """How many."""
        return sum(self.classes.values())

    def join(self, other: Seen) -> None:
        """Add what another has seen."""
        self.confidence += other.confidence
        for index, count in other.classes.items():
            self.classes[index] = self.classes.get(index, 0) + count
        for name in ("disagreement", "large"):
            more = getattr(other, name)
            if more is not None:
                setattr(self, name, (getattr(self, name) or 0.0) + more)

    def told(self) -> dict[str, Any]:
        """Means over the images, and the share of each class."""
        n = max(1, self.images)
        shares = {str(index): count / n for index, count in sorted(self.classes.items(), key=lambda i: -i[1])}
        mean = {name: None if (v := getattr(self, name)) is None else v / n for name in ("disagreement", "large")}
        return {"images": self.images, "confidence": self.confidence / n, **mean, "classes": shares}
