"""A card names the licences of the images and of the weights."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import Command
from tests.helpers import small_flags


def test_of_images_and_weights(sparring: Command) -> None:
    flags = [*small_flags(max_steps=2), "--team=local", "--no-report"]
    assert sparring("train", "at", *flags, "--name=r").returncode == 0

    def card(net: str, *more: str) -> dict[str, Any]:
        done = sparring("publish", net, "--as=m", "--json", *more)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["card"]
        return found

    unstated = card("r")
    assert unstated["license"] is None
    assert unstated["data"]["license"] == "CC-BY-4.0 (UCI repository)"
    assert card("r", "--license=apache-2.0")["license"] == "apache-2.0"
    assert card("m")["license"] == "apache-2.0"  # a copy of a model keeps what was stated
    assert sparring("publish", "r", "--as=large", "--license=cc-by-nc-4.0").returncode == 0
    both = card("m/3", "--large=large")
    assert both["license"] is None  # two licences are not one
    assert [member["license"] for member in both["members"]] == ["apache-2.0", "cc-by-nc-4.0"]
    assert card("m/3", "--large=large", "--license=own")["license"] == "own"
