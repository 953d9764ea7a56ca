"""The checkpoints of a run: what is committed, whole, best and last.

A checkpoint is a folder that agents fill as ``step-000123.tmp``; the driver adds MANIFEST.json (sha256 of every file, the
held-out accuracies, the best so far), renames the folder and writes COMMITTED last. Without COMMITTED it does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.cluster.errors import BrokenCheckpoint
from sparring.trainers.files import to_json, write


def number_of(step: str) -> int:
    """``step-000012`` -> 12; names of a million steps and more do not sort as texts."""
    return int(step.removeprefix("step-"))


if TYPE_CHECKING:
    from sparring.trainers.types import HeldOut

FORMAT = 1  # of MANIFEST.json


@dataclass(frozen=True)
class Checkpoints:
    """The folder ``runs/NAME/checkpoints``."""

    folder: Path

    def path(self, t: int) -> Path:
        """Folder of the checkpoint of step ``t``."""
        return self.folder / f"step-{t:06d}"

    def working(self, t: int) -> Path:
        """A new folder in which the checkpoint of step ``t`` is written; an orphan of an earlier attempt cannot reach it."""
        path = self.folder / f"step-{t:06d}.{secrets.token_hex(4)}.tmp"
        self.folder.mkdir(exist_ok=True)  # never the run's own folder, which may have been moved away
        path.mkdir()
        return path

    def committed(self) -> list[int]:
        """Steps with a committed checkpoint, rising."""
        return sorted(
            int(p.parent.name.removeprefix("step-")) for p in self.folder.glob("step-*/COMMITTED") if _is_step(p)
        )

    def manifest(self, t: int) -> dict[str, Any]:
        """MANIFEST.json of step ``t``.

        Raises:
            BrokenCheckpoint: it is missing or not JSON.
        """
        path = self.path(t) / "MANIFEST.json"
        try:
            found = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise BrokenCheckpoint(
                f"{path} cannot be read: {error}. See: sparring fsck {self.folder.parent}"
            ) from error
        wrong = _form(found)
        if wrong:
            raise BrokenCheckpoint(f"{path}: {wrong}. See: sparring fsck {self.folder.parent}")
        return found

    def commit(
        self,
        t: int,
        working: Path,
        files: Mapping[str, Mapping[str, str]],
        validation: Mapping[str, HeldOut],
        origin: Mapping[str, str] | None = None,
        *,
        metric: str = "robust",
    ) -> dict[str, Any]:
        """Turn the finished working folder of step ``t`` into a committed checkpoint and return its manifest.

        Args:
            working: the folder, as :meth:`working` made it.
            files: per agent, file name -> sha256.
            validation: per agent, accuracies on the held-out images; empty when none were taken.
            metric: the accuracy by which checkpoints are compared.
            origin: sha256 of what the steps were computed from: configuration, data.
        """
        final = self.path(t)
        previous = [s for s in self.committed() if s < t]
        best = self.manifest(previous[-1])["best"] if previous else {}
        seen = {agent: asdict(held_out) for agent, held_out in validation.items()}
        for agent, accuracies in seen.items():
            if agent not in best or accuracies[metric] > best[agent]["value"]:
                best = {**best, agent: {"step": t, "metric": metric, "value": accuracies[metric]}}
        hashes = {f"agents/{agent}/{name}": sha for agent, names in files.items() for name, sha in names.items()}
        manifest = {"format": FORMAT, "t": t, "files": hashes, "validation": seen, "best": best}
        manifest |= {"origin": dict(origin or {}), "previous": self._link(previous[-1]) if previous else None}
        sha = write(working / "MANIFEST.json", to_json(manifest))
        for folder in [working, *(p for p in working.rglob("*") if p.is_dir())]:
            _sync(folder)
        if final.exists():
            final.rename(_unused(final.with_name(final.name + ".replaced")))
        working.rename(final)
        write(final / "COMMITTED", (sha + "\n").encode())
        _sync(final)
        _sync(self.folder)
        self.publish(t)
        return manifest

    def _link(self, t: int) -> dict[str, Any] | None:
        """What a later manifest says of that of step ``t``: altering one breaks all after it.

        A checkpoint that a stop left between the regular ones is passed over, so that an interrupted run ends in the same
        bytes as an undisturbed one.
        """
        manifest = self.manifest(t)
        if t > 0 and not manifest["validation"]:
            return manifest["previous"]  # type: ignore[no-any-return]
        return {"t": t, "manifest": (self.path(t) / "COMMITTED").read_text().strip()}

    def publish(self, t: int, *, writer: str = "") -> None:
        """Write best.json and last.json beside the checkpoints from the manifest of step ``t``; ``writer`` as of :func:`write`."""
        manifest = self.manifest(t)
        by = {a: best["metric"] for a, best in manifest["best"].items()}
        last = {a: {"step": t, "metric": by[a], "value": v[by[a]]} for a, v in manifest["validation"].items()}
        write(self.folder / "best.json", to_json(manifest["best"]), writer=writer)
        write(self.folder / "last.json", to_json(last), writer=writer)

    def problems(self, t: int) -> list[str]:
        """What is wrong with the checkpoint of step ``t``: every missing or altered file by name; [] when whole."""
        folder = self.path(t)
        try:
            expected = (folder / "COMMITTED").read_text().strip()
            raw = (folder / "MANIFEST.json").read_bytes()
        except FileNotFoundError as error:
            return [f"{Path(error.filename).relative_to(self.folder)} is missing"]
        if hashlib.sha256(raw).hexdigest() != expected:
            return [f"{folder.name}/MANIFEST.json is altered (its sha256 is not the one in COMMITTED)"]
        manifest = json.loads(raw)
        wrong = _form(manifest)
        if wrong:
            return [f"{folder.name}/MANIFEST.json: {wrong}"]
        found = []
        for name, sha in manifest["files"].items():
            try:
                content = (folder / name).read_bytes()
            except OSError:
                found.append(f"{folder.name}/{name} is missing")
                continue
            if hashlib.sha256(content).hexdigest() != sha:
                found.append(f"{folder.name}/{name} is altered (its sha256 is not the one in MANIFEST.json)")
        return found

    def newest_whole(self) -> tuple[int | None, list[str]]:
        """The newest step whose checkpoint is whole, and what is wrong with the newer ones."""
        seen: list[str] = []
        for t in reversed(self.committed()):
            wrong = self.problems(t)
            if not wrong:
                return t, seen
            seen += wrong
        return None, seen

    def drop_after(self, t: int | None, *, why: str = "damaged") -> None:
        """Set checkpoints newer than ``t`` aside as ``*.damaged`` (or another reason) and remove unfinished folders."""
        for step in self.committed():
            if t is None or step > t:
                path = self.path(step)
                path.rename(_unused(path.with_name(f"{path.name}.{why}")))
        self.sweep()

    def sweep(self) -> None:
        """Remove what was begun and never committed."""
        for path in self.folder.glob("step-*"):
            if path.name.endswith(".tmp") or (_is_step(path / "x") and not (path / "COMMITTED").exists()):
                shutil.rmtree(path)

    def prune(self, keep: int) -> None:
        """Remove all but the newest ``keep`` and those that hold some agent's best as any of these knows it."""
        steps = self.committed()
        best = {entry["step"] for t in steps[-keep:] for entry in self.manifest(t)["best"].values()}
        for t in steps[:-keep]:
            if t not in best:
                (
                    self.path(t) / "COMMITTED"
                ).unlink()  # first, so that a half-removed folder is never taken for a checkpoint
                shutil.rmtree(self.path(t))


def _form(manifest: Any) -> str:
    """What is wrong with the form of a manifest, in words; empty when nothing is."""
    if not isinstance(manifest, dict):
        return f"it is a {type(manifest).__name__}, not a mapping"
    missing = [k for k in ("files", "validation", "best", "origin") if not isinstance(manifest.get(k), dict)]
    return f"it has no {' and no '.join(missing)}" if missing else ""


def _is_step(inside: Path) -> bool:
    return inside.parent.name.removeprefix("step-").isdigit()


def _unused(path: Path) -> Path:
    i = 1
    while path.with_name(f"{path.name}-{i}").exists():
        i += 1
    return path.with_name(f"{path.name}-{i}")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
