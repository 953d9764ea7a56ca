"""The bearer token: what a file of it may be, and how it is replaced while the service runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sparring.serve import tokens
from sparring.serve.tokens import GRACE, LOOK, Tokens, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text("secret\n")
    made.chmod(0o600)
    return made


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; it must hold the bearer token"),
        (b" \n\n", "is empty"),
        (b"one\ntwo\n", "has 2 lines; it must hold one"),
        (b"\xef\xbb\xbfsecret", "begins with a byte order mark"),
        (b"\xff\xfes\x00", "begins with a byte order mark"),
        (b"two words", "has spaces or characters beyond ASCII"),
        ("gehe\u00efm".encode(), "has spaces or characters beyond ASCII"),
    ],
)
def test_files_that_hold_no_token(content: bytes, words: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Tokens(str(file))


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write(mode: int, file: Path) -> None:
    file.chmod(mode)
    with pytest.raises(ValueError, match=f"may be written by others \\(mode {mode:o}\\)"):
        read(file)


def test_a_file_that_all_may_read_is_named(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.chmod(0o644)
    assert read(file) == "secret"
    assert "can be read by everybody on this machine (mode 644): chmod 600" in caplog.text
    caplog.clear()
    file.chmod(0o400)
    assert read(file) == "secret"
    assert caplog.text == ""


def test_rotation(file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A new token holds at the next look, the one before for a minute more; a file that is no token changes nothing."""
    now = 1000.0
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now)
    made = Tokens(str(file))
    assert made.needed
    assert made.fit(b"secret")
    assert not made.fit(b"other")

    def replaced(content: str) -> None:
        new = file.with_name("new")
        new.write_text(content)
        new.chmod(0o600)
        os.replace(new, file)

    replaced("a\nb\n")
    now += 2 * LOOK
    with caplog.at_level(logging.ERROR):
        assert made.fit(b"secret")
    assert "the token stays as it was" in caplog.text
    replaced("other\n")
    now += 2 * LOOK
    assert made.fit(b"other")
    assert made.fit(b"secret")
    now += GRACE - 1
    assert made.fit(b"secret")
    now += 2
    assert not made.fit(b"secret")
    assert made.fit(b"other")
    file.unlink()
    now += 2 * LOOK
    assert made.fit(b"other")


def test_no_token_matches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tokens.TOKEN, raising=False)
    assert not Tokens(None).needed
    monkeypatch.setenv(tokens.TOKEN, "x")
    made = Tokens(None)
    assert made.needed
    assert not made.fit(b"")
    assert made.fit(b"x")
