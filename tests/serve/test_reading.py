"""Bodies read apart: few at a time, and what they took is given back."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import threading
import time

import pytest

from sparring.serve.reading import AT_ONCE, LARGE, Readers
from tests.helpers import CLONE

FREED = """
import asyncio, json, os
from sparring.serve.reading import Readers, _give_back

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

body = json.dumps([[0.5]] * 1_000_000).encode()

def work():
    return len(json.loads(body))

async def ask():
    readers = Readers()
    await asyncio.gather(*(readers.numbers(body, work) for _ in range(3)))
    kept = held()
    _give_back()
    return kept - held()

print(asyncio.run(ask()))
"""


def test_few_at_a_time() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    async def ask() -> None:
        readers = Readers()
        large = bytes(AT_ONCE + 1)
        await asyncio.gather(*(readers.numbers(large, work) for _ in range(12)), readers.file(b"x", work))

    asyncio.run(ask())
    assert most == 2


def test_a_small_body_is_read_where_it_came() -> None:
    async def ask() -> tuple[int, int]:
        readers = Readers()
        return await readers.numbers(b"1", threading.get_ident), await readers.file(b"1", threading.get_ident)

    here, apart = asyncio.run(ask())
    assert here == threading.get_ident() != apart


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is given back to Linux by glibc's malloc_trim")
def test_memory_comes_back_after_large_bodies() -> None:
    """Nothing is left to be given back: else it is 13 MiB."""
    assert LARGE < 7 * 10**6
    done = subprocess.run([sys.executable, "-c", FREED], cwd=CLONE, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 5
