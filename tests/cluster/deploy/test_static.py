"""Deploy files, as far as they can be checked without the services that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.deploy.reading import DEPLOY, commands, manifest, sparrings
from tests.helpers import CLONE

FILES = sorted(p.name for p in DEPLOY.iterdir() if p.suffix in (".yaml", ".sbatch"))
SERVICES = ("rayservice.yaml", "compose-serve.yaml")


@pytest.mark.parametrize("name", [n for n in FILES if n not in SERVICES])
def test_commands_are_ones_that_sparring_takes(name: str) -> None:
    found = commands(DEPLOY / name)
    assert found
    for words in found:
        command, config = sparrings(words)
        assert command.resume_if_exists
        assert command.name
        assert command.runs_dir.is_absolute()
        assert Path(config.data.root).is_absolute()


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_token_step(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert "# Token:" in text
    own = name.startswith("compose")  # no other machine is there
    assert own or "mode: token" in text or "RAY_AUTH_MODE=token" in text


def test_slurm_script_is_sound_shell() -> None:
    script = str(DEPLOY / "train.sbatch")
    checker = ["shellcheck", script] if shutil.which("shellcheck") else ["bash", "-n", script]
    done = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SLURM = {  # what the script calls of Slurm, on one host
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" > "$SHARED/requeued"; else echo localhost; fi',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "getent": 'echo "127.0.1.1 STREAM n"; echo "10.0.0.7 STREAM n"',
    "ray": 'shift; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',  # symmetric-run, less Ray
    "python": 'echo "$@" > "$SHARED/asked"; mkdir -p "$SHARED/runs/mat-cifar10"; cat "$RAY_AUTH_TOKEN_PATH" > "$SHARED/token"; '
    "exec driver",
    "driver": 'printf "{\\"host\\": \\"h\\", \\"pid\\": $$}" > "$SHARED/runs/mat-cifar10/run.lock"; trap "exit 130" USR1; '
    "while :; do sleep 0.1; done",
}


def test_slurm_job_saves_and_queues_itself_again_when_its_time_is_up(tmp_path: Path) -> None:
    """Slurm's USR1 reaches the driver and nobody else; the job is put back and ends as the driver does; the token is gone."""
    for name in ("bin", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    for name, body in SLURM.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    env = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SHARED": str(tmp_path / "shared"),
        "HOME": str(tmp_path),
    }
    env |= {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_NNODES": "1"}
    job = subprocess.Popen(["bash", str(DEPLOY / "train.sbatch")], env=env)
    from tests.hosts import wait_for

    wait_for(lambda: (tmp_path / "shared/runs/mat-cifar10/run.lock").exists(), seconds=20, what="the driver")
    job.send_signal(10)
    assert job.wait(timeout=20) == 130
    assert (tmp_path / "shared" / "requeued").read_text() == "7\n"
    asked = (tmp_path / "shared" / "asked").read_text()
    assert "--resume-if-exists" in asked
    assert "--address 10.0.0.7:6379" in asked
    assert len((tmp_path / "shared" / "token").read_text()) == 64
    assert not (tmp_path / "shared" / "token-7").exists()


def test_launcher_file_is_valid() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((DEPLOY / "cluster.yaml").read_text())))


@pytest.mark.parametrize("name", ["rayjob-train.yaml", "rayjob-tune.yaml"])
def test_rayjob(name: str) -> None:
    """What KubeRay's reference asks of a RayJob; pods share the volume on which runs live."""
    job = manifest(DEPLOY / name)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"working_dir": "/sparring"}
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = re.search(r"^ray==(.+)$", (CLONE / "constraints.txt").read_text(), re.M)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounts["shared"] == "/shared"
        assert "--placement.gpus-per-agent 1" in spec["entrypoint"]  # no node may be there when it starts
        assert set(mounts) == {v["name"] for v in group["template"]["spec"]["volumes"]}
    (gpus,) = [g["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for g in groups[1:]]
    assert gpus == "1"
    assert "--runs-dir /shared/" in spec["entrypoint"]


def test_rayservice_holds_what_sparring_writes(tmp_path: Path) -> None:
    """Its application is one that Ray Serve's schema and ours take, and the one that ``--yaml`` makes."""
    from ray.serve.schema import ServeDeploySchema

    from sparring.cluster.serving import models, options
    from sparring.serve.app import app
    from sparring.serve.settings import Settings

    service = manifest(DEPLOY / "rayservice.yaml")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    [application] = ServeDeploySchema.model_validate(config).applications
    assert app(application.args)  # as Serve calls it
    with pytest.raises(ValueError, match="models_dri"):
        app({"models_dri": "x"})
    settings = Settings(**application.args)
    assert (settings.models_dir, settings.token_file) == ("/shared/models", "/secrets/token")
    shutil.copytree(CLONE / "serve" / "demo", tmp_path / "models")
    (tmp_path / "token").write_text("x")
    made = models.settings(
        [], tmp_path / "models", demo=False, token_file=tmp_path / "token", predictors=1, max_predictors=4, gpus=1.0
    )
    written = yaml.safe_load(options.to_yaml(made, options.Where("0.0.0.0", 8000)))
    assert written["applications"][0]["args"].keys() - {"demo"} == application.args.keys()
    assert {k: v for k, v in written.items() if k != "applications"} == {
        k: v for k, v in config.items() if k != "applications"
    }
    assert {k: written["applications"][0][k] for k in ("name", "import_path", "route_prefix")} == {
        k: config["applications"][0][k] for k in ("name", "import_path", "route_prefix")
    }
