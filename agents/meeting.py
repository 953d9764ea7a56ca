"""How agents find each other: each opens a socket and says its address to whoever started it, and joins once it knows everybody's.

There is no rendezvous at which a stranger could ask. gloo (torch 2.15) takes whoever connects at its word; so everybody says besides, at
the same place as its address, what it will prove itself with once connected.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

TOKEN = "token of "
PROOF = 1  # tag of what each says first
PROVING = 20.0  # seconds in which it must have said it


class PeerLost(RuntimeError):
    """Another agent is gone or silent: infrastructure, not the program's own error."""


def common_store(group: Any, host: str, rank: int, *, timeout: float) -> Any:
    """A store of the first member's, for a group over NCCL to exchange its identifier through. Untried, since only GPUs need one.

    Args:
        group: of all who take part, over gloo.
        host: this one's address as the others see it.
        timeout: seconds that one waits for another.
    """
    own, told = None, torch.zeros(64, dtype=torch.uint8)
    if rank == 0:
        own = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        text = f"{own.port}@{host}".encode()
        told[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    group.broadcast([told]).wait()
    port, _, where = bytes(told[told > 0].tolist()).decode().partition("@")
    patience = timedelta(seconds=timeout)
    return own or distributed.TCPStore(where, int(port), is_master=False, timeout=patience)  # type: ignore[attr-defined]


def over_nccl(store: Any, name: str, rank: int, size: int, *, timeout: float) -> Any:
    """A group of this name over NCCL, that meets in a common store."""
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=timeout)
    return distributed.ProcessGroupNCCL(distributed.PrefixStore(name, store), rank, size, options)  # type: ignore[attr-defined]


class Meeting:
    """One process on its way into a group.

    Args:
        rank, size: its place, and how many there are.
        host: this host's address as the others see it.
        timeout: seconds in which all must have come.
    """

    def __init__(self, rank: int, size: int, host: str, *, timeout: float) -> None:
        self.host, self._store = host, distributed.HashStore()  # type: ignore[attr-defined]
        self._timeout, self._made = timeout, dict[str, Any]()
        self._rank, self._token = rank, secrets.token_bytes(32)
        options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timedelta(seconds=timeout)
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=host)]

        def join() -> None:
            try:
                self._made["group"] = distributed.ProcessGroupGloo(self._store, rank, size, options)
            except RuntimeError as error:
                self._made["error"] = error

        self._thread = threading.Thread(target=join, daemon=True)
        self._thread.start()

    def address(self) -> dict[str, bytes]:
        """Where the others find this one, and what it will prove itself with."""
        ended = time.monotonic() + self._timeout
        while not (keys := self._store.list_keys()):
            if "error" in self._made or time.monotonic() > ended:
                raise PeerLost(f"no socket could be opened: {self._made.get('error', 'no answer')}")
            time.sleep(0.001)
        return {key: self._store.get(key) for key in keys} | {f"{TOKEN}{self._rank}": self._token}

    def join(self, addresses: Mapping[str, bytes], *, timeout: float) -> Any:
        """The group, once all have been told everybody's address.

        Args:
            timeout: seconds after which a silent one counts as lost.

        Raises:
            PeerLost: somebody did not come in time, or somebody else came.
        """
        tokens = {int(key[len(TOKEN) :]): value for key, value in addresses.items() if key.startswith(TOKEN)}
        for key, value in addresses.items():
            if not key.startswith(TOKEN):
                self._store.set(key, value)  # type: ignore[arg-type]  # bytes are what comes out of a store
        self._thread.join(self._timeout + 1)
        if "group" not in self._made:
            raise PeerLost(f"the agents did not meet: {self._made.get('error', 'no answer in time')}")
        group = self._made["group"]
        self._prove(group, tokens)
        group._set_default_timeout(timedelta(seconds=timeout))
        return group

    def _prove(self, group: Any, tokens: Mapping[int, bytes]) -> None:
        """Say the own token to each, and hear each one's."""
        own = torch.frombuffer(bytearray(self._token), dtype=torch.uint8)
        heard = {rank: torch.zeros_like(own) for rank in tokens if rank != self._rank}
        works = [group.send([own], rank, PROOF) for rank in heard]
        works += [group.recv([said], rank, PROOF) for rank, said in heard.items()]
        try:
            for work in works:
                work.wait(timedelta(seconds=min(PROVING, self._timeout)))
        except RuntimeError as error:
            raise PeerLost(f"who connected says nothing: {str(error).splitlines()[0]}") from error
        strangers = [
            rank for rank, said in heard.items() if not hmac.compare_digest(bytes(said.tolist()), tokens[rank])
        ]
        if strangers:
            raise PeerLost(f"who connected in the place of {strangers} is somebody else")
