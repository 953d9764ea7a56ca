"""CITATION.cff says what is released: its keys are those of the format, its version is everybody's."""

from __future__ import annotations

import datetime
import re
import tomllib

import yaml

import sparring
from tests.helpers import CLONE

NEEDED = {"cff-version", "message", "title", "authors"}  # by the Citation File Format, 1.2.0
ALLOWED = NEEDED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
    *(
        "preferred-citation",
        "references",
        "repository",
        "repository-artifact",
        "repository-code",
        "type",
        "url",
        "version",
    ),
}


def test_keys_version_and_date() -> None:
    cited = yaml.safe_load((CLONE / "CITATION.cff").read_text())
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    assert NEEDED <= set(cited) <= ALLOWED
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", project["license"])
    assert all({"name"} <= set(author) or {"family-names"} <= set(author) for author in cited["authors"])
    assert cited["version"] == sparring.__version__ == project["version"]
    released = re.search(
        rf"^## {re.escape(sparring.__version__)} \((.+)\)$", (CLONE / "CHANGELOG.md").read_text(), re.M
    )
    assert released is not None
    date = cited.get("date-released")  # none before there is a release
    assert (released[1] == "unreleased") == (date is None)
    assert date is None or (isinstance(date, datetime.date) and str(date) == released[1])


def test_every_dependency_stands_with_its_licence() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    page = (CLONE / "docs" / "licences.md").read_text().lower()
    for requirement in project["dependencies"]:
        found = re.match(r"[A-Za-z0-9-]+", requirement.replace("_", "-"))
        assert found is not None
        assert re.search(rf"^\| {found[0]} \| [\d.]+\S* \| \w", page.replace("_", "-"), re.M), requirement
