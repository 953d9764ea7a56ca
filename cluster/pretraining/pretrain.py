"""``sparring pretrain``: one network, data-parallel, by Ray Train's TorchTrainer.

Every worker is a lane of the same agent: it takes its rows of the run's batches, and gradients are averaged (gloo or NCCL).
The run's folder is an ordinary one. A lost worker restarts the group, which goes on from the newest whole checkpoint to
the same result; the network is then evaluated and published with a card.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.values import differences
from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, Interrupted, SparringError, UsageError
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.machines import head, hosts, placement, session
from sparring.cluster.machines.stop import asked_to_stop
from sparring.cluster.models import card
from sparring.cluster.models.initial import resolved
from sparring.cluster.models.resolve import single
from sparring.cluster.models.trained import chosen_agents, subject
from sparring.cluster.pretraining.waiting import STARTS, Steps, await_room, followed
from sparring.cluster.pretraining.worker import Task, stopped, work
from sparring.cluster.runs import images
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.team import assemble
from sparring.cluster.training import launch
from sparring.trainers import user

EVALUATED = 1000  # test images of the card's first evaluation, at most


def pretrain(
    config: RunConfig,
    *,
    workers: int,
    runs_dir: Path = Path("runs"),
    models_dir: Path = Path("models"),
    name: str | None = None,
    publish_as: str | None = None,
    resume_if_exists: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, evaluate and publish a network; its run, model folder and card.

    Args:
        workers: lanes; the result depends on their number only through each lane's own batch statistics.
        publish_as: name of the model; by default method, data and network.

    Raises:
        UsageError: a method with several agents, or a run of this name with other settings.
        NoResources: fewer CPUs or GPUs than workers.
        Infrastructure: more failures than ``max_failures``.
        TrainingStopped: a loss or weight is not finite.
    """
    config = replace(resolved(config), lanes=workers)
    launch.check(config)
    roles = config.method.roles()
    if len(roles) != 1 or config.networks() != list(roles):
        raise UsageError(
            f"pretrain trains one network alone; {config.recipe} has {', '.join(config.networks())}: sparring train"
        )
    (role,) = roles
    if config.mirror is not None:
        raise UsageError("pretrain has no --mirror; its workers save into --runs-dir, which every node must see")
    if resume_if_exists and name is None:
        raise UsageError("--resume-if-exists needs --name: without it every run gets a new name")
    folder = _folder(config, runs_dir, name, resume_if_exists=resume_if_exists)
    config = replace(config, checkpoint=folder.config.checkpoint)
    with folder.locked():
        first, wrong = folder.checkpoints.newest_whole()
        if wrong and first is None:
            raise BrokenCheckpoint(f"no whole checkpoint in {folder}: {'; '.join(wrong)}")
        try:
            _fit(folder, config, workers, quiet=quiet)
        except Exception:
            if not folder.checkpoints.folder.exists():  # nothing has begun: the name is free again
                shutil.rmtree(folder.path)
            raise
    attacks = ["clean", "fgsm", "pgd-20"]
    count = min(EVALUATED, len(images.prepare(config.data, quiet=True).load().test))
    weights = subject(folder, chosen_agents(folder, [role])[0]).record["weights"]
    if not card.evaluations(folder.path, weights):
        evaluate_run(folder, attacks=attacks, examples=count)
    as_name = publish_as or _name(config)
    known = model_folder.resolve(models_dir / as_name)
    if known is not None and model_folder.weights_sha256(known) == weights:
        model = known  # a finished run, asked for again
    else:
        model = card.publish(*single(f"{folder.path}@{role}"), name=as_name, models_dir=models_dir)
    return {"run": str(folder.path), "model": str(model), "card": model_folder.card(model)}


def _folder(config: RunConfig, runs_dir: Path, name: str | None, *, resume_if_exists: bool) -> RunFolder:
    if not (resume_if_exists and name and (runs_dir / name / "config.yaml").exists()):
        return RunFolder.create(runs_dir, name, config)
    folder = RunFolder.open(runs_dir / name)
    config = replace(config, checkpoint=config.checkpoint.going_on(folder.config.checkpoint))
    differing = [] if folder.config.sha256 == config.sha256 else differences(folder.config.to_dict(), config.to_dict())
    if differing:
        raise UsageError(f"run {folder} exists with other settings ({'; '.join(differing)}); choose another --name")
    return folder


def _name(config: RunConfig) -> str:
    text = f"{config.label}-{_network(config.network)}".lower()
    return re.sub(r"[^a-z0-9._-]+", "-", text).strip("-._")[:64]


def _network(spec: str) -> str:
    """``small_cnn:width=8`` -> ``small_cnn``; ``net.py:make`` -> ``net``."""
    return Path(spec.rpartition(":")[0]).stem if user.is_function(spec) else spec.partition(":")[0]


def _fit(folder: RunFolder, config: RunConfig, workers: int, *, quiet: bool) -> None:
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    (spec,) = assemble.specs(config, quiet=quiet)
    role = spec.me
    wanted, own = placement.on_device(config.device, config.placement, config.agents)
    if session.brings_its_own(config.address):
        wanted, said = placement.on_one_machine(wanted, workers)
        if said and not quiet:
            print(said, file=sys.stderr, flush=True)
        placement.plan([role], wanted, [placement.this_machine()], lanes=workers, own=own)
    with session.connected(config.address) as runtime_env, followed(folder.path / "log.txt", quiet=quiet):
        planned = placement.plan([role], wanted, placement.nodes_alive(), lanes=workers, own=own)
        await_room(planned, wanted, quiet=quiet)
        bundle = planned[0].resources
        files = [i for i in (spec.init,) if i is not None]
        hosts.prepare(hosts.alive(), spec.images, folder=folder.path, files=files, runtime_env=runtime_env)
        storage = folder.path / "ray_train"
        trainer = TorchTrainer(
            work,
            train_loop_config={"task": Task(str(folder.path), config, spec, sys.argv)},
            torch_config=TorchConfig(backend=_backend(bundle), timeout_s=int(config.call_timeout)),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu="GPU" in bundle,
                resources_per_worker=bundle,
                placement_strategy=wanted.strategy,
                label_selector=planned[0].selector or None,
            ),
            run_config=TrainRunConfig(
                name="train", storage_path=str(storage), failure_config=FailureConfig(max_failures=config.max_failures)
            ),
        )
        try:
            with asked_to_stop(), head.watched([Steps(folder.path, 2 * config.call_timeout + STARTS)]):
                trainer.fit()
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; what is committed in {folder} is kept. Continue with the same command, --name {folder.path.name} and "
                "--resume-if-exists"
            ) from None
        except ray.train.TrainingFailedError as error:
            _say_what_stopped(folder)
            raise Infrastructure(
                f"gave up after {config.max_failures} restarts: {str(error).splitlines()[-1]}. Nothing committed is lost"
            ) from error
        _say_what_stopped(folder)
        shutil.rmtree(storage, ignore_errors=True)


def _say_what_stopped(folder: RunFolder) -> None:
    """Raise what a worker met that no other could go on from; nothing if none did."""
    if stopped(folder).exists():
        told = json.loads(stopped(folder).read_bytes())
        stopped(folder).unlink()
        raise SparringError.told(told["text"], told["code"]) from None


def _backend(bundle: Mapping[str, float]) -> str:
    """NCCL where every worker has a GPU of its own."""
    return "nccl" if bundle.get("GPU", 0) >= 1 else "gloo"
