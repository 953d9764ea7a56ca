"""``sparring deploy``: the files that it writes, read as those who carry them out read them."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import tyro
import yaml

from sparring.cluster.commands.serve import Serving
from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.deploy import filling
from sparring.cluster.deploy.asked import CAN
from sparring.cluster.errors import UsageError
from sparring.serve.settings import Settings
from tests.cluster.deploy.reading import (
    DEPLOY,
    KUBERAY,
    assigned,
    by_ray,
    commands,
    composed,
    manifest,
    sparrings,
    steps,
)
from tests.conftest import Command
from tests.helpers import CLONE

RUNS = [  # what is asked, the file, name and folders that its command has
    (["kuberay", "mat", "--epochs=3"], "rayjob-train.yaml", "mat-digits", "/shared/runs", "/shared/data"),
    (["kuberay", "mat", "--name=A_b.1", "--shared=/m"], "rayjob-train.yaml", "A_b.1", "/m/runs", "/m/data"),
    (["kuberay", "tune", "mat", "--trials=3"], "rayjob-tune.yaml", "mat-digits-search", "/shared/runs", "/shared/data"),
    (["slurm", "mat", "--name=x"], "train.sbatch", "x", "/shared/runs", "/shared/data"),
    (["compose", "mat", "--name=x", "--data.root=D"], "compose-train.yaml", "x", "/runs", "/data"),
    (["cluster-launcher", "mat", "--name=x", "--runs-dir=/a/r"], "cluster.yaml", "x", "/a/r", "/shared/data"),
]


@pytest.mark.parametrize(
    ("args", "file", "name", "runs", "data"), RUNS, ids=lambda a: " ".join(a) if isinstance(a, list) else ""
)
def test_a_run_is_the_one_that_was_asked_for(
    args: list[str], file: str, name: str, runs: str, data: str, sparring: Command, tmp_path: Path
) -> None:
    flags = ["--method.alpha=0.25", "--seed", "7"]
    done = sparring("deploy", *args, *flags, "--out=o", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == [f"o/{file}"]
    assert told["next"]
    ((command, config),) = [sparrings(words) for words in commands(tmp_path / "o" / file)]
    assert (command.name, str(command.runs_dir), config.data.root) == (name, runs, data)
    assert command.resume_if_exists
    assert (config.method.alpha, config.seed) == (0.25, 7)
    assert config.epochs == (3 if "--epochs=3" in args else 40)


def test_of_the_files_own_flags_those_hold_that_were_not_given(sparring: Command, tmp_path: Path) -> None:
    """``--wait`` is short for a flag of another name; a flag stands once."""
    assert sparring("deploy", "kuberay", "mat", "--wait=5", "--placement.gpus_per_agent=0.5").returncode == 0
    (words,) = commands(tmp_path / "deploy" / "rayjob-train.yaml")
    _, config = sparrings(words)
    assert (config.placement.wait, config.placement.gpus_per_agent) == (5.0, 0.5)
    assert sum("wait" in word for word in words) == sum("per" in word for word in words) == 1


def test_manifests_of_kuberay(sparring: Command, tmp_path: Path) -> None:
    """Image, nodes, GPUs and volume of a run and of a service; every key is one that KubeRay or Kubernetes has."""
    site = [
        "--image=r.io/s:2",
        "--nodes=3",
        "--gpus-per-node=2",
        "--gpu-kind=NVIDIA-A100",
        "--claim=vol.1",
        "--shared=/m",
    ]
    assert sparring("deploy", "kuberay", "mat", "--name=On", *site).returncode == 0
    assert sparring("deploy", "kuberay", "serve", "--name=Robust_1", *site).returncode == 0
    job, service = (manifest(tmp_path / "deploy" / name) for name in ("rayjob-train.yaml", "rayservice.yaml"))
    assert (job["metadata"]["name"], service["metadata"]["name"]) == (
        "run-on",
        "robust-1",
    )  # a bare `on` is true in YAML
    for cluster in (job["spec"]["rayClusterSpec"], service["spec"]["rayClusterConfig"]):
        (group,) = cluster["workerGroupSpecs"]
        assert (group["replicas"], group["maxReplicas"]) == (3, 3)
        pods = [cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
        assert pods[1]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100"}
        assert pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
        for pod in pods:
            assert pod["containers"][0]["image"] == "r.io/s:2"
            assert {"name": "shared", "persistentVolumeClaim": {"claimName": "vol.1"}} in pod["volumes"]
            assert "/m" in [m["mountPath"] for m in pod["containers"][0]["volumeMounts"]]
    wrong = copy.deepcopy(job)
    wrong["spec"]["backofLimit"] = wrong["spec"].pop("backoffLimit")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, KUBERAY)


def test_a_service_of_kuberay_has_what_was_asked_for(sparring: Command, tmp_path: Path) -> None:
    asked = ["--max-predictors=6", "--timeout=10", "--threads=2", "--gpus=0.5", "--demo", "--models-dir=/shared/m"]
    assert sparring("deploy", "kuberay", "serve", *asked, "--name=r").returncode == 0
    text = (tmp_path / "deploy" / "rayservice.yaml").read_text()
    service = manifest(tmp_path / "deploy" / "rayservice.yaml")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    settings = Settings(**application["args"])
    assert (settings.models_dir, settings.token_file, settings.predictors) == ("/shared/m", "/secrets/token", 1)
    assert (settings.max_predictors, settings.limits.seconds, settings.threads) == (6, 10.0, 2)
    assert (settings.gpus, settings.demo) == (0.5, True)
    pod = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    (secret,) = [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
    assert secret == "r-http-token"
    assert f"kubectl create secret generic {secret} " in text  # the token step makes what the pods read
    assert all(m["readOnly"] for m in pod["containers"][0]["volumeMounts"])


def test_without_gpus_nothing_asks_for_one(sparring: Command, tmp_path: Path) -> None:
    for args in (["kuberay", "mat"], ["kuberay", "serve"], ["slurm", "mat"], ["compose", "mat"]):
        assert sparring("deploy", *args, "--gpus-per-node=0").returncode == 0
    out = tmp_path / "deploy"
    assert sparrings(commands(out / "rayjob-train.yaml")[0])[1].placement.gpus_per_agent == 0
    config = yaml.safe_load(manifest(out / "rayservice.yaml")["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["gpus"] == 0
    assert "gpu" not in (out / "train.sbatch").read_text()
    assert "deploy" not in composed(out / "compose-train.yaml")["services"]["train"]


ODD = [
    "/a b",
    "it's",
    "$HOME",
    "`id`",
    "uniform(0.1, 1)",
    "uniform(0.1,1)",
    "a;b|c&d",
    "*",
    "~",
    "#x",
    "ä",
    "",
    "{a,b}",
    "!x",
]


def test_odd_words_arrive_through_both_shells_of_ray() -> None:
    words = ["python", *ODD]
    assert by_ray(" ".join(filling.entrypoint(words))) == words
    with pytest.raises(UsageError, match="passes through"):
        filling.entrypoint(['a"b'])


HOSTILE = 'it\'s a "folder" $(touch stolen) `touch stolen` ${x} } \\ *'
STAND_IN = {  # what the script calls, each noting its words
    "scontrol": "echo node1",
    "getent": 'echo "10.0.0.7 STREAM n"',
    "srun": 'note srun "$@"; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": 'note ray "$@"; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "python": 'note python "$@"; mkdir -p "$RUNS_ASKED"; echo "{\\"pid\\": $$}" > "$RUNS_ASKED/run.lock"; trap "note saved; exit 130" USR1; '
    'while [ -n "${WAITS:-}" ]; do sleep 0.1; done; exit 5',
    "sbatch": 'note sbatch "$@"; exec bash "$1"',
}
NOTE = 'note() { { printf "%s\\n" "$@"; echo ----; } >> "$NOTES"; }'


def test_a_batch_script_calls_ray_with_sparring_in_order(sparring: Command, tmp_path: Path) -> None:
    """On one stand-in node, in folders with names that a shell would read otherwise; the script ends as the run does."""
    shared = str(tmp_path / HOSTILE.replace("/", ""))
    flags = ["--shared", shared, "--name=mine", "--out", "o p's", "--nodes=1", "--gpu-kind=a100", "--gpus-per-node=2"]
    told = sparring("deploy", "slurm", "mat", "--memo", HOSTILE, *flags, "--clone", f"{shared}/clone", "--json")
    assert told.returncode == 0, told.stderr
    script = tmp_path / "o p's" / "train.sbatch"
    assert [assigned(script, n) for n in ("SHARED", "CLONE")] == [shared, f"{shared}/clone"]
    (Path(shared) / "clone" / ".venv" / "bin").mkdir(parents=True)
    (Path(shared) / "clone" / ".venv" / "bin" / "activate").write_text("")
    (tmp_path / "bin").mkdir()
    for name, body in STAND_IN.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{NOTE}\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "NOTES": str(tmp_path / "notes")}
    env |= {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n",
        "SLURM_NNODES": "1",
        "SLURM_SUBMIT_DIR": "/",
        "RUNS_ASKED": f"{shared}/runs/mine",
    }
    first, *_ = json.loads(told.stdout)["next"]
    done = subprocess.run(["bash", "-c", first], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    called = [part.split("\n")[:-1] for part in (tmp_path / "notes").read_text().split("----\n")[:-1]]
    assert [words[0] for words in called] == ["sbatch", "srun", "ray", "python"]
    assert called[0][1:] == ["o p's/train.sbatch"]
    assert called[2][1:6] == ["symmetric-run", "--address", "10.0.0.7:6379", "--min-nodes", "1"]
    command, config = sparrings(called[3])
    assert (command.name, str(command.runs_dir), config.data.root) == ("mine", f"{shared}/runs", f"{shared}/data")
    assert (config.address, config.memo) == ("10.0.0.7:6379", HOSTILE)
    assert not list(tmp_path.rglob("stolen"))
    assert not list(Path(shared).glob("token-*"))
    text = script.read_text()
    assert "#SBATCH --gpus-per-node=a100:2\n#SBATCH" in text
    assert "#SBATCH --nodes=1\n" in text
    assert "#SBATCH --job-name=mine\n" in text


def test_a_batch_script_asks_the_run_to_save_whatever_its_folder_is_called(sparring: Command, tmp_path: Path) -> None:
    shared = str(tmp_path / 'it\'s "here" $x')
    assert sparring("deploy", "slurm", "mat", "--shared", shared, "--name=mine").returncode == 0
    script = (tmp_path / "deploy" / "train.sbatch").read_text()
    function = script[script.index("ask() {") : script.index("trap ask")]
    lock = Path(shared) / "runs" / "mine" / "run.lock"
    lock.parent.mkdir(parents=True)
    waiting = subprocess.Popen(["sleep", "60"])
    lock.write_text(f'{{"host": "h", "pid": {waiting.pid}, "heartbeat": 1.0}}')
    line = next(line for line in script.splitlines() if line.startswith("lock="))
    srun = 'srun() { while [ "${1#--}" != "$1" ]; do shift; done; "$@"; }'
    asks = f"{srun}; head_node=n; step=1; RUNS={shlex.quote(shared)}/runs; {line}\n{function}\nask"
    subprocess.run(["bash", "-euo", "pipefail", "-c", asks], check=True)
    assert waiting.wait(timeout=20) == -10


@pytest.mark.parametrize(
    "args",
    [["mat"], ["mat", "--gpus-per-node=0", "--clone=/a b", "--runs-dir=/r'", "--data.root=/d"]],
    ids=["plain", "odd"],
)
def test_a_batch_script_is_sound_shell(args: list[str], sparring: Command, tmp_path: Path) -> None:
    assert sparring("deploy", "slurm", *args).returncode == 0
    script = str(tmp_path / "deploy" / "train.sbatch")
    checker = ["shellcheck", script] if shutil.which("shellcheck") else ["bash", "-n", script]
    done = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_of_compose(sparring: Command, tmp_path: Path) -> None:
    """The proxy alone is reached from outside; the service behind it takes a token, writes nothing and says how it is."""
    assert sparring("deploy", "compose", "serve", "--models-dir=$m it's", "--threads=2", "--image=s:2").returncode == 0
    out = tmp_path / "deploy"
    assert (out / "nginx.conf").read_bytes() == (DEPLOY / "nginx.conf").read_bytes()
    whole = composed(out / "compose-serve.yaml")
    proxy, serve = whole["services"]["proxy"], whole["services"]["serve"]
    assert "listen 8443 ssl" in (out / "nginx.conf").read_text()
    assert proxy["ports"] == ["8443:8443"]
    assert "ports" not in serve
    assert serve["network_mode"] == "service:proxy"  # where nginx.conf's 127.0.0.1:8000 is the service
    assert all(mount["read_only"] for mount in (*proxy["volumes"], *serve["volumes"]))
    sources = {m["target"]: m["source"] for m in (*proxy["volumes"], *serve["volumes"])}
    assert sources["/models"] == str(tmp_path / "$m it's")
    assert {"/etc/nginx/nginx.conf", "/etc/sparring", "/models"} == set(sources)
    assert serve["read_only"] is True
    assert serve["image"] == "s:2"
    assert int(serve["user"].split(":")[0]) > 0
    assert serve["healthcheck"]["test"][0] == "CMD"
    assert serve["healthcheck"]["test"][-1] == "http://127.0.0.1:8000/v2/health/live"
    made = tyro.cli(Serving, args=serve["command"][2:])
    assert (str(made.models_dir), made.port, made.host, made.threads) == ("/models", 8000, "127.0.0.1", 2)
    assert str(made.token_file) == f"/run/secrets/{serve['secrets'][0]}"
    assert whole["secrets"] == {"token": {"file": "./token"}}


def test_a_run_of_compose(sparring: Command, tmp_path: Path) -> None:
    args = ["--runs-dir=r", "--data.root=d", "--gpus-per-node=2", "--name=X_1", "--placement.gpus-per-agent=0.5"]
    assert sparring("deploy", "compose", "mat", *args).returncode == 0
    whole = composed(tmp_path / "deploy" / "compose-train.yaml")
    train = whole["services"]["train"]
    assert whole["name"] == "x-1"
    mounts = {m["target"]: (m["source"], m.get("read_only", False)) for m in train["volumes"]}
    assert mounts == {"/runs": (str(tmp_path / "r"), False), "/data": (str(tmp_path / "d"), True)}
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    assert train["healthcheck"] == {"disable": True}  # the image's asks a service
    assert int(train["user"].split(":")[0]) > 0


def test_a_cluster_of_ones_own_machines(sparring: Command, tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    args = ["--hosts=10.1.0.1,10.1.0.2", "--ssh-user=me", "--shared=/nfs", "--name=x"]
    assert sparring("deploy", "cluster-launcher", "mat", *args).returncode == 0
    text = (tmp_path / "deploy" / "cluster.yaml").read_text()
    config = yaml.safe_load(text)
    validate_config(prepare_config(config))
    assert config["provider"] == {"type": "local", "head_ip": "10.1.0.1", "worker_ips": ["10.1.0.2"]}
    assert (config["min_workers"], config["max_workers"], config["auth"]["ssh_user"]) == (1, 1, "me")
    assert "/shared" not in text
    assert ["ray", "up", "deploy/cluster.yaml"] in steps(text)


@pytest.mark.parametrize("named", ["a run", "a file"])
def test_a_run_that_is_there_is_said_by_its_recipe_and_flags(named: str, sparring: Command, tmp_path: Path) -> None:
    """A node needs neither its folder nor the file; further flags hold over it."""
    changes = {
        "peers": 3,
        "method.alpha": 0.5,
        "optim.milestones": (3, 5),
        "agents.peer1.network": "small_cnn:width=4",
        "trace": True,
    }
    config = recipe("mat").replace(changes)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(run_config.dump(config.absolute()))
    start = ["runs/first"] if named == "a run" else ["-c", "runs/first/config.yaml"]
    done = sparring("deploy", "slurm", *start)
    assert done.returncode == 0, done.stderr
    assert sparring("deploy", "kuberay", *start, "--seed=9").returncode == 0
    (slurm,), (pods,) = (commands(tmp_path / "deploy" / name) for name in ("train.sbatch", "rayjob-train.yaml"))
    assert sparrings(slurm)[1].sha256 == config.sha256
    assert sparrings(pods)[1].sha256 == config.replace({"seed": 9}).sha256
    assert sparrings(slurm)[0].name == ("first" if named == "a run" else "mat-digits")


def test_a_run_with_files_of_its_own_is_refused(sparring: Command, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from torch import nn\n\n\ndef net(**o):\n    return nn.Flatten()\n")
    (tmp_path / "run.yaml").write_text(run_config.dump(recipe("mat").replace({"network": "own.py:net"})))
    done = sparring("deploy", "slurm", "-c", "run.yaml")
    assert done.returncode == 2
    assert "own.py" in done.stderr


REFUSED = [
    (["kuberay"], 2, "needs a recipe"),
    (["kubernetes", "mat"], 2, "kuberay"),
    (["kuberay", "matt"], 2, "Did you mean 'mat'?"),
    (["kuberay", "runs/none"], 2, "is not a run"),
    (["kuberay", "mat", "--epoch=3"], 2, "--epochs"),
    (["kuberay", "mat", "--attack.eps=8"], 2, "exceeds the pixel range"),
    (["kuberay", "mat", "--network=smal_cnn"], 2, "Did you mean 'small_cnn'?"),
    (["kuberay", "rslad"], 2, "--train-teachers"),
    (["slurm", "mtard", "--train-teachers", "--network=smal_cnn"], 2, "Did you mean 'small_cnn'?"),
    (["kuberay", "tune", "mat", "--search.method.alhpa=uniform(0,1)"], 2, "alhpa"),
    (["kuberay", "mat", "--placement.gpus-per-agent=2"], 2, "--gpus-per-node"),
    (["kuberay", "mat", "--name=../x"], 2, "--name '../x' is not allowed"),
    (["kuberay", "mat", "--image=a b"], 2, "--image 'a b' is not allowed"),
    (["kuberay", "mat", "--claim=on"], 2, "--claim 'on' is not allowed"),
    (["kuberay", "mat", "--runs-dir=/elsewhere"], 2, "must lie in /shared"),
    (["kuberay", "mat", "--shared=/it's"], 2, "--shared"),
    (["kuberay", "mat", '--memo=a"b'], 2, "passes through ray job submit"),
    (["kuberay", "mat", "--nodes=0"], 2, "--nodes must be 1 or more"),
    (["kuberay", "mat", "--hosts=a"], 2, "--hosts means nothing to kuberay train"),
    (["kuberay", "mat", "--address=a:1"], 2, "--address"),
    (["kuberay", "mat", "--dry-run"], 2, "--dry-run"),
    (["kuberay", "serve", "--port=9"], 2, "takes no --port"),
    (["kuberay", "serve", "r=models/r"], 2, "takes no NAME=NET"),
    (["kuberay", "serve", "--gpus=2"], 2, "--gpus-per-node"),
    (["kuberay", "serve", "--predictors=0"], 2, "max_predictors"),
    (["kuberay", "serve", "--threds=2"], 2, "--threads"),
    (["compose", "serve", "--predictors=2"], 2, "takes no --predictors"),
    (["slurm", "serve"], 2, "slurm has no file for serve"),
    (["slurm", "mat", "--shared=here"], 2, "--shared here must be absolute"),
    (["slurm", "mat", "--shared=/a\nb"], 2, "no line of a file can hold"),
    (["slurm", "mat", "--out=a\nb"], 2, "no line of a file can hold"),
]


@pytest.mark.parametrize(("args", "code", "words"), REFUSED, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_what_is_refused_leaves_nothing(
    args: list[str], code: int, words: str, sparring: Command, tmp_path: Path
) -> None:
    done = sparring("deploy", *args)
    said = " ".join((done.stderr + done.stdout).replace("│", " ").split())
    assert done.returncode == code, said
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(sparring: Command, tmp_path: Path) -> None:
    """Not even one of two files, nor is the other written then."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "nginx.conf").write_text("mine")
    done = sparring("deploy", "compose", "serve")
    assert done.returncode == 3
    assert "deploy/nginx.conf" in done.stderr
    assert [p.name for p in (tmp_path / "deploy").iterdir()] == ["nginx.conf"]
    assert (tmp_path / "deploy" / "nginx.conf").read_text() == "mine"
    assert sparring("deploy", "compose", "serve", "--out=another").returncode == 0


@pytest.mark.parametrize(("place", "what"), [(place, what) for place in CAN for what in CAN[place]])
def test_what_to_type_next(place: str, what: str, sparring: Command, tmp_path: Path) -> None:
    """It names the written files by paths that are there, and is printed as the files say it."""
    words = {"train": ["mat"], "tune": ["tune", "mat"], "serve": ["serve"]}[what]
    done = sparring("deploy", "--out", "to here", place, *words)
    assert done.returncode == 0, done.stderr
    (first, *_) = sorted((tmp_path / "to here").glob("*.[ys]*"))
    typed = steps(first.read_text())
    named = {word for step in typed for word in step if word.startswith("to here/")}
    assert f"to here/{first.name}" in named
    assert not any("cluster/deploy/" in word for step in typed for word in step if not word.startswith("/"))
    told = [line.strip() for line in done.stdout.partition("next:\n")[2].splitlines()]
    assert len(told) == len(typed)
    dockerfile = [step[step.index("-f") + 1] for step in typed if step[:2] == ["docker", "build"]]
    assert all(Path(name).is_file() for name in dockerfile)


def test_the_static_files_are_the_source(sparring: Command, tmp_path: Path) -> None:
    """What is not filled in is the static file's, comments and all: a line that is in neither place would be a second copy."""
    assert sparring("deploy", "kuberay", "mat-cifar10-resnet18", "--name=mat-cifar10").returncode == 0
    before = (DEPLOY / "rayjob-train.yaml").read_text().splitlines()
    after = (tmp_path / "deploy" / "rayjob-train.yaml").read_text().splitlines()
    assert len(before) == len(after)
    assert [b for b, a in zip(before, after, strict=True) if b != a] == [*before[2:5], "  name: sparring-train"]


SHOWN = [
    line
    for page in ("README.md", "docs/operations.md", "docs/search.md", "docs/serving.md")
    for line in re.findall(
        r"sparring deploy (?:kuberay|slurm|compose|cluster-launcher) [^`\n]*", (CLONE / page).read_text()
    )
]


@pytest.mark.parametrize("line", SHOWN)
def test_what_the_pages_show_is_taken(line: str, sparring: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mat").mkdir(parents=True)
    (tmp_path / "runs" / "mat" / "config.yaml").write_text(run_config.dump(recipe("mat")))
    words = shlex.split(line, comments=True)[1:]
    done = sparring(*words, "--out=written")
    assert done.returncode == 0, done.stderr
