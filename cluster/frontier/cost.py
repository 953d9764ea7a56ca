"""What a step of a run costs: in device-seconds, measured, and in forward passes of its product's network, counted.

A device-second is a second in which the run holds one device: a GPU, or where it has none a CPU core; shares of devices count as
such. Of a run in one process what its agents compute counts, on one core.

A pass is as much arithmetic as one forward pass of the product's network over a batch; a backward pass to the images alone is one more,
to the weights two (which reaches the images on its way). Plain training takes 3 a step, adversarial training with ten attack steps 23.
Counted by the table of torch.utils.flop_counter: convolutions and matrix products, teachers included, on this very code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparring.agents.checkpoint import to_json, write
from sparring.agents.endpoint import Endpoint
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.settings import Own
from sparring.cluster.models.initial import resolved
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.team import assemble
from sparring.cluster.team.team import LocalHandle
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

FEW = 8  # images of a batch on which passes are counted: arithmetic grows with the images
COUNTED = 4  # steps counted: methods that draw a norm per batch differ between steps
FIRST, LEAST, MOST = 5, 20, 400  # of a measured run: steps left out, steps at least and at most
SECONDS = 4.0  # that the measured steps take about


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step."""

    seconds: float  # device-seconds
    passes: float
    steps_per_epoch: int
    n: int  # steps that were measured

    def of(self, unit: str) -> float:
        """In a unit: seconds or passes."""
        return self.seconds if unit == "seconds" else self.passes


def known(config: RunConfig, folder: Path, *, group: object = None) -> Cost:
    """The cost of a step of ``config``, kept in ``folder`` once it was measured there.

    Args:
        group: a placement group for the measured run.
    """
    file = folder / "cost.json"
    if not file.exists():
        how = Circumstances(quiet=True, group=group)
        per_step = _measured(config, folder, LEAST, how)
        if sum(per_step) < SECONDS:
            per_step = _measured(config, folder, min(MOST, ceil(LEAST * SECONDS / sum(per_step))), how)
        one_epoch = assemble.specs(resolved(config.replace({"max_steps": None, "epochs": 1})), quiet=True)[0].length()
        write(file, to_json(asdict(Cost(median(per_step), counted(config), one_epoch, len(per_step)))))
    return Cost(**json.loads(file.read_text()))


def _measured(config: RunConfig, folder: Path, n: int, how: Circumstances) -> list[float]:
    """Device-seconds of ``n`` steps of a run that does nothing else."""
    short = config.replace({"max_steps": FIRST + n, "checkpoint.every": FIRST + n})
    run = launch.train(short, runs_dir=folder, name=f"of-{n}-steps", resume_if_exists=True, how=how)
    return spent(RunFolder(run.path))[FIRST:]


def spent(folder: RunFolder) -> list[float]:
    """Device-seconds of every step of a run, from its metrics."""
    config, agents = folder.config, folder.environment.get("agents", {})
    sums: dict[int, float] = {}
    for line in folder.metrics():
        seconds = line["seconds"]
        busy = sum(v for k, v in seconds.items() if k != "idle")
        if config.team == "local":
            taken = busy
        else:
            taken = (busy + seconds.get("idle", 0.0)) * _share(config, line["agent"], agents)
        sums[line["t"]] = sums.get(line["t"], 0.0) + taken
    return [sums[t] for t in sorted(sums)]


def _share(config: RunConfig, agent: str, agents: dict[str, dict[str, object]]) -> float:
    """Of a device that an agent holds, all its lanes together."""
    own = config.agents.get(agent, Own())
    on_gpu = str(agents.get(agent, {}).get("device", "cpu")).startswith("cuda")
    gpus = own.gpus if own.gpus is not None else config.placement.gpus_per_agent
    share = (1.0 if gpus is None else gpus) if on_gpu else config.placement.cpus_per_agent
    return share * config.lanes


def counted(config: RunConfig) -> float:
    """Passes of one step."""
    small = config.replace({"batch_size": FEW, "device": "cpu", "threads_per_agent": 1, "compile": False})
    specs = assemble.specs(resolved(small), quiet=True)
    handles = {spec.me: LocalHandle(Endpoint(spec)) for spec in specs}
    product = handles[config.method.deploy()[0]].endpoint.agent
    with torch.no_grad(), Arithmetic() as one:
        product.model(product.batches.batch(0).x)
    with Arithmetic() as all_of_them:
        for t in range(COUNTED):
            config.method.step(handles, t)
    return float(all_of_them.total / COUNTED / one.total)


class Arithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating point operations by torch's own table.

    torch.utils.flop_counter.FlopCounterMode (2.15.0) counts by module, too, for which it asks autograd about leaves: gradients of images
    alone, which every attack takes, raise an error under it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
