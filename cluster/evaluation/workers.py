"""Ray actors that attack blocks. Whatever other people's attack code does to its process stays in the actor's.

driver                                   worker (actor)
every job without a file:
  attack(job, pixels, labels)  ------>   Attacking.attack
  block-0007.parquet  <----------------- its bytes
a dead worker's block is submitted again; a killed driver finds the finished files and goes on

A process that is stopped or stuck is alive to Ray, which would wait for its answer for good. So workers are asked for signs of life, which a
thread of their own gives while a block is attacked; who gives none is killed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from sparring.agents.carried import Carried, pack, unpack
from sparring.cluster.errors import Infrastructure
from sparring.cluster.evaluation.attacking import Attacking, Done, Images, Job, Seconds, put
from sparring.cluster.machines import hosts, session
from sparring.cluster.team import failures
from sparring.trainers import user

DEATHS = 3  # of workers, after which the block or the machine is at fault
PULSE = 10.0  # seconds between two questions
SILENT = 60.0  # seconds without an answer after which a worker is ended: code that holds Python's lock for long may be at work
STARTS = 300.0  # the same before the first answer: it imports torch and takes the networks


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


class Signs:
    """What workers were last heard to say."""

    def __init__(self) -> None:
        self._asked: dict[Any, tuple[Any, float]] = {}  # by worker: the question, and when it was asked
        self._places: dict[Any, hosts.Place] = {}

    def look(self, busy: Iterable[Any]) -> None:
        """Ask those who have answered, and end the processes of those who have not for too long."""
        now = time.monotonic()
        for worker in busy:
            if worker not in self._asked:
                self._asked[worker] = worker.sign.remote(), now
                continue
            question, since = self._asked[worker]
            if ray.wait([question], timeout=0)[0]:
                self._heard(worker, question)
            elif now - since > (SILENT if worker in self._places else STARTS):
                self._end(worker)

    def _heard(self, worker: Any, question: Any) -> None:
        del self._asked[worker]
        try:
            self._places[worker] = ray.get(question)
        except RayError:  # it is dead, as the answer about its block will say
            return

    def _end(self, worker: Any) -> None:
        del self._asked[worker]
        ray.kill(worker, no_restart=True)
        if worker in self._places:
            hosts.end([self._places.pop(worker)])  # a stopped process does not hear Ray


class _Worker:
    def __init__(self, models: Mapping[str, Carried], sources: Mapping[str, Carried], how: Attacking, threads: int):
        self._threads = threads
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made = [{name: unpack(network) for name, network in group.items()} for group in (models, sources)]
        self._attacking = replace(how, models=made[0], sources=made[1]).copied(device)  # out of shared memory

    def threads(self) -> int:
        """Those of the thread that attacks, which is not the one that made the worker."""
        torch.set_num_threads(self._threads)
        return torch.get_num_threads()

    @ray.method(concurrency_group="signs")  # type: ignore[untyped-decorator]
    def sign(self) -> hosts.Place:
        return hosts.Place.own()

    @user.telling
    def attack(self, job: Job, x: Any, y: Any) -> tuple[bytes, Seconds]:
        self.threads()
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
        actor = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"signs": 1})(_Worker)
        made = actor.options(num_cpus=self._cpus, num_gpus=self._gpus / 4, runtime_env=self._runtime_env)
        return made.remote(*self._args)

    def run(self, jobs: Sequence[Job], images: Images, done: Done) -> None:
        """All jobs; a dead worker is replaced and its block done again."""
        waiting, free = list(jobs)[::-1], list(self.workers)
        busy: dict[Any, tuple[Job, Any]] = {}
        deaths, signs = Counter[Job](), Signs()
        while waiting or busy:
            while waiting and free:
                job, worker = waiting.pop(), free.pop()
                x, y = (a.numpy() for a in images(job))
                busy[worker.attack.remote(job, x, y)] = (job, worker)
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=PULSE)
            if not ready:
                signs.look(worker for _, worker in busy.values())
                continue
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
