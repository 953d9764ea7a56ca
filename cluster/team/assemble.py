"""The agents of a configuration: checked, then made in this process or on Ray."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import CheckpointError
from sparring.agents.lanes import Lanes
from sparring.agents.program import recorded
from sparring.agents.spec import AgentSpec
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.machines.fitting import Bundle, Node
from sparring.cluster.runs import images
from sparring.cluster.team.team import LocalTeam, Team
from sparring.trainers.batches import last_batch


def specs(config: RunConfig, *, quiet: bool) -> list[AgentSpec]:
    """What the agents are made from: the images decoded, the weights to start from checked, every batch enough for all lanes.

    Raises:
        BrokenCheckpoint: weights cannot be read.
        ValueError: they do not fit, or a batch has fewer images than there are lanes.
    """
    prepared = images.prepare(config.data, quiet=quiet)
    try:
        team = secrets.token_hex(8)
        made = [replace(spec, team=team) for spec in config.specs(prepared)]
        for spec in made:
            spec.check_weights()
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error
    if config.lanes > 1:
        data = made[0].images.load()
        train, _ = data.held_out(config.data.validation, seed=config.seed, fraction=config.data.fraction)
        last = last_batch(len(train), config.batch_size) if config.data.extra is None else config.batch_size
        Lanes(0, config.lanes).rows(last)
    return made


@contextmanager
def team_of(
    config: RunConfig,
    *,
    quiet: bool = True,
    folder: Path | None = None,
    group: Any = None,
    made: Sequence[AgentSpec] | None = None,
) -> Iterator[Team]:
    """The run's agents, ready; on Ray in a placement group that is removed at the end.

    Args:
        folder: the run's, which every node must see.
        group: a placement group of somebody else's, whose bundles after the first are for the agents.
        made: what the agents are made from, when :func:`specs` has said it already.
    """
    if config.lanes > 1 and config.team == "local":
        raise UsageError(f"lanes = {config.lanes} needs one process per lane and agent: --team ray, or --lanes 1")
    made = specs(config, quiet=quiet) if made is None else list(made)
    if config.team == "local":
        local = LocalTeam(made)
        try:
            yield local
        finally:
            local.close()
        return
    from sparring.cluster.machines import placement, session  # late: a local team needs no ray
    from sparring.cluster.team.ray_team import RayTeam
    from sparring.cluster.team.site import Site

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    def bundles_on(nodes: list[Node]) -> list[Bundle]:
        return placement.plan([s.me for s in made], wanted, nodes, lanes=config.lanes, own=own)

    wanted, own = placement.on_device(config.device, config.placement, config.agents)
    if session.brings_its_own(config.address):
        wanted, said = placement.on_one_machine(wanted, config.lanes * len(made))
        if said:
            say(said)
        bundles_on([placement.this_machine()])  # what cannot fit is said before Ray starts
    with session.connected(config.address) as runtime_env:
        bundles = bundles_on(placement.nodes_alive())  # in a group of somebody else's it fits already
        site = Site(
            group or placement.reserve(bundles, wanted, say=say),
            bundles,
            runtime_env,
            replacement=wanted.replacement,
            folder=folder,
            borrowed=group is not None,
        )
        remote = RayTeam(
            made, site, lanes=config.lanes, call_timeout=config.call_timeout, direct=_direct(config, quiet=quiet)
        )
        try:
            yield remote
        finally:
            remote.close()


def _direct(config: RunConfig, *, quiet: bool) -> bool:
    """Whether agents exchange from process to process; ``auto`` says what it chose."""
    if config.exchange != "auto":
        return config.exchange == "direct"
    chosen = bool(recorded(config.method, 0).readers())
    if not quiet:
        print(f"exchange: {'direct' if chosen else 'store, there is nothing to exchange'}", file=sys.stderr, flush=True)
    return chosen
