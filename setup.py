"""What pyproject.toml cannot say: where our folders lie in a wheel, and an sdist that is the same bytes from the same commit.

A wheel holds ``sparring.py`` and, beside it, ``sparring-code/`` with the four folders and a copy of that file: a clone in
miniature, which a cluster gets as its working directory. The dash keeps it from being importable by any name but ours.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HOME = "sparring-code"
FOLDERS = ("trainers", "agents", "cluster", "serve")
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))  # 1980, the earliest that a zip file can say


class SameBytes(sdist):
    """An archive whose members have the order of their names, and one time and owner."""

    def make_archive(self, base_name: str, format: str, root_dir=None, base_dir=None, owner=None, group=None) -> str:
        assert format == "gztar"
        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for member in sorted(p for p in Path(base_dir).rglob("*") if p.is_file()):
                archive.add(member, filter=_plain)
        return str(path)


class Code(build_py):
    """Of the files beside this one, ``sparring.py`` alone belongs to the folders."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [m for m in super().find_package_modules(package, package_dir) if package != HOME or m[1] == "sparring"]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = EPOCH, 0, 0, "", ""
    member.mode = 0o644
    return member


found = find_namespace_packages(include=[p for f in FOLDERS for p in (f, f"{f}.*")], exclude=["*__pycache__*"])
setup(
    cmdclass={"sdist": SameBytes, "build_py": Code},
    packages=[HOME, *(f"{HOME}.{name}" for name in found)],
    package_dir={HOME: ".", **{f"{HOME}.{folder}": folder for folder in FOLDERS}},
    package_data={f"{HOME}.{name}": ["*"] for name in found},
    exclude_package_data={"": ["__pycache__/*", "*.pyc"]},
)
