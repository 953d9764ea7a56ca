"""Ray actors that attack blocks. Whatever other people's attack code does to its process stays in the actor's.

driver                                   worker (actor)
every job without a file:
  attack(job, pixels, labels)  ------>   Attacking.attack
  block-0007.parquet  <----------------- its bytes
a dead worker's block is submitted again; a killed driver finds the finished files and goes on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from sparring.agents.carried import Carried, pack, unpack
from sparring.cluster.errors import Infrastructure
from sparring.cluster.evaluation.attacking import Attacking, Done, Images, Job, Seconds, put
from sparring.cluster.machines import session
from sparring.cluster.team import failures
from sparring.trainers import user

DEATHS = 3  # of workers, after which the block or the machine is at fault


def run(attacking: Attacking, jobs: Sequence[Job], images: Images, done: Done, *, workers: int) -> None:
    """Evaluate every job and write its file; blocks go to whichever worker is free.

    Raises:
        Infrastructure: workers die again and again over one block.
    """
    with session.connected() as runtime_env:
        pool = Pool(attacking, workers, runtime_env)
        try:
            pool.run(jobs, images, done)
        finally:
            pool.close()


class _Worker:
    def __init__(self, models: Mapping[str, Carried], sources: Mapping[str, Carried], how: Attacking, threads: int):
        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made = [{name: unpack(network) for name, network in group.items()} for group in (models, sources)]
        self._attacking = replace(how, models=made[0], sources=made[1]).copied(device)  # out of shared memory

    def threads(self) -> int:
        return torch.get_num_threads()

    @user.telling
    def attack(self, job: Job, x: Any, y: Any) -> tuple[bytes, Seconds]:
        return self._attacking.attack(job, torch.tensor(x), torch.tensor(y))


class Pool:
    """So many workers, each with copies of all networks; blocks go to whichever is free, and their results depend on none of this.

    Args:
        attacking: what each worker holds.
        workers: how many.
        runtime_env: what our packages need there.
    """

    def __init__(self, attacking: Attacking, workers: int, runtime_env: dict[str, Any]) -> None:
        packed = [{k: pack(m) for k, m in group.items()} for group in (attacking.models, attacking.sources)]
        bare = replace(attacking, models={}, sources={})
        present = ray.cluster_resources()
        threads, self._cpus = share_of(present.get("CPU", 0.0), workers, at_most=torch.get_num_threads())
        self._args = [*map(ray.put, packed), bare, threads]
        self._gpus = float(present.get("GPU", 0) > 0)
        self._runtime_env = runtime_env
        self.workers = [self._spawn() for _ in range(workers)]

    def _spawn(self) -> Any:
        actor = ray.remote(max_restarts=0, max_task_retries=0)(_Worker)
        made = actor.options(num_cpus=self._cpus, num_gpus=self._gpus / 4, runtime_env=self._runtime_env)
        return made.remote(*self._args)

    def run(self, jobs: Sequence[Job], images: Images, done: Done) -> None:
        """All jobs; a dead worker is replaced and its block done again."""
        waiting, free = list(jobs)[::-1], list(self.workers)
        busy: dict[Any, tuple[Job, Any]] = {}
        deaths = Counter[Job]()
        while waiting or busy:
            while waiting and free:
                job, worker = waiting.pop(), free.pop()
                x, y = (a.numpy() for a in images(job))
                busy[worker.attack.remote(job, x, y)] = (job, worker)
            ready, _ = ray.wait(list(busy), num_returns=1)
            job, worker = busy.pop(ready[0])
            try:
                content, seconds = ray.get(ready[0])
            except RayError as error:
                if failures.classify(error, [], {}) is None:
                    raise failures.unwrap(error) from error
                self.workers.remove(worker)
                deaths[job] += 1
                if deaths[job] >= DEATHS:
                    raise _gave_up(job, error) from error
                self.workers.append(self._spawn())
                free.append(self.workers[-1])
                waiting.append(job)
                continue
            free.append(worker)
            put(job, content)
            done(job, seconds)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker, no_restart=True)


def share_of(cores: float, workers: int, *, at_most: int) -> tuple[int, float]:
    """Threads of a worker, and the cores that it asks Ray for: what its threads use, so that workers spread by capacity; where
    there are fewer cores than workers, a share each."""
    threads = max(1, min(at_most, int(cores) // workers))
    return threads, min(float(threads), int(100 * cores / workers) / 100)


def _gave_up(job: Job, error: Exception) -> Infrastructure:
    return Infrastructure(
        f"{DEATHS} workers died over block {job.index} of {job.agent} under {job.threat} (last: {str(error).splitlines()[0]}). "
        "Finished blocks are kept; repeat the same command to go on, or use --workers 0 to see the error in this process"
    )
