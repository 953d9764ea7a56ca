"""Ray actors that attack blocks. Whatever other people's attack code does to its process stays in the actor's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from torch import Tensor, nn

from agents.checkpoint import write
from cluster import blocks, failures
from cluster.blocks import Job


class _Worker:
    def __init__(self, models: dict[str, nn.Module], sources: dict[str, nn.Module], threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = {name: deepcopy(m).to(self.device).eval() for name, m in models.items()}  # out of shared memory
        self.sources = {name: deepcopy(m).to(self.device).eval() for name, m in sources.items()}

    def run(self, agent: str, x: Any, y: Any, options: dict[str, Any]) -> tuple[bytes, dict[str, float]]:
        images, labels = (torch.tensor(a, device=self.device) for a in (x, y))
        return blocks.attack_block(self.models[agent], images, labels, sources=self.sources, **options)


class Pool:
    """So many workers; blocks go to whichever is free, and their results depend on none of this.

    Args:
        models: by agent; each worker gets a copy.
        sources: networks of transfer attacks.
        runtime_env: what our packages need there.
    """

    def __init__(
        self, workers: int, models: dict[str, nn.Module], sources: dict[str, nn.Module], runtime_env: dict[str, Any]
    ) -> None:
        on_cpu = ({k: m.cpu() for k, m in group.items()} for group in (models, sources))
        self._args = [ray.put(group) for group in on_cpu]
        self._gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
        self._runtime_env = runtime_env
        self.workers = [self._spawn() for _ in range(workers)]

    def _spawn(self) -> Any:
        actor = ray.remote(max_restarts=0, max_task_retries=0)(_Worker)
        made = actor.options(num_cpus=0, num_gpus=self._gpus / 4, runtime_env=self._runtime_env)
        return made.remote(*self._args, torch.get_num_threads())

    def run(
        self,
        jobs: Sequence[Job],
        images: Callable[[int, int], tuple[Tensor, Tensor]],
        options: Callable[[Job], dict[str, Any]],
        done: Callable[[Job, dict[str, float]], None],
    ) -> None:
        """All jobs; a dead worker is replaced and its block done again.

        Raises:
            Infrastructure: workers die again and again over one block.
        """
        waiting, free = list(jobs)[::-1], list(self.workers)
        busy: dict[Any, tuple[Job, Any]] = {}
        deaths = [0] * len(jobs)
        number = {id(job): i for i, job in enumerate(jobs)}
        while waiting or busy:
            while waiting and free:
                job, worker = waiting.pop(), free.pop()
                x, y = (a.numpy() for a in images(job.start, job.stop))
                busy[worker.run.remote(job.agent, x, y, options(job))] = (job, worker)
            ready, _ = ray.wait(list(busy), num_returns=1)
            job, worker = busy.pop(ready[0])
            try:
                content, seconds = ray.get(ready[0])
            except RayError as error:
                if failures.classify(error, [], {}) is None:
                    raise failures.unwrap(error) from error
                self.workers.remove(worker)
                deaths[number[id(job)]] += 1
                if deaths[number[id(job)]] >= blocks.DEATHS:
                    raise blocks.gave_up(job, error) from error
                self.workers.append(self._spawn())
                free.append(self.workers[-1])
                waiting.append(job)
                continue
            free.append(worker)
            write(job.path, content)
            done(job, seconds)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker, no_restart=True)
