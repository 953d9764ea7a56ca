"""How agents find each other: each opens a socket and says its address to whoever started it, and joins once it knows everybody's.

There is no rendezvous at which a stranger could ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from torch import distributed


class PeerLost(RuntimeError):
    """Another agent is gone or silent: infrastructure, not the program's own error."""


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
        """Where the others find this one."""
        ended = time.monotonic() + self._timeout
        while not (keys := self._store.list_keys()):
            if "error" in self._made or time.monotonic() > ended:
                raise PeerLost(f"no socket could be opened: {self._made.get('error', 'no answer')}")
            time.sleep(0.001)
        return {key: self._store.get(key) for key in keys}

    def join(self, addresses: Mapping[str, bytes], *, timeout: float) -> Any:
        """The group, once all have been told everybody's address.

        Args:
            timeout: seconds after which a silent one counts as lost.

        Raises:
            PeerLost: somebody did not come in time.
        """
        for key, value in addresses.items():
            self._store.set(key, value)  # type: ignore[arg-type]  # bytes are what comes out of a store
        self._thread.join(self._timeout + 1)
        if "group" not in self._made:
            raise PeerLost(f"the agents did not meet: {self._made.get('error', 'no answer in time')}")
        self._made["group"]._set_default_timeout(timedelta(seconds=timeout))
        return self._made["group"]
