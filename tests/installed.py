"""Environments in which Sparring is installed as other people install it, beside packages of the same names as its folders."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from tests.helpers import CLONE
from tests.serve.live import free_port

NAMES = ("agents", "trainers", "cluster", "serve")
FOREIGN = "raise ImportError('this is somebody else\\'s package')\n"

WALK = """
import json, os, signal, sys, urllib.request
import sparring
from sparring.cluster.serving import models, options, service
from sparring.cluster.commands.main import main
from sparring.cluster.machines import session

SMALL = ["--network=small_cnn:width=2", "--batch-size=8", "--attack.steps=1", "--checkpoint.attack-steps=1"]
SMALL += ["--max-steps=2", "--placement.cpus-per-agent=0.5", "--quiet", "--no-report"]


def done(*args):
    code = main(list(args))
    assert code == 0, (args, code)


session.start(num_cpus=4, object_store_memory=256 * 2**20)  # one Ray for all that follows
done("train", "mat", *SMALL, "--team=ray", "--name=ray")
done("evaluate", "runs/ray", "--attacks=fgsm", "--examples=8", "--block=4", "--workers=2", "--quiet")
print("home", sparring.__path__[0])
"""
MORE = """
done("train", "mat", *SMALL, "--team=local", "--name=local")


def ready(answer):
    page = urllib.request.urlopen(answer["url"]).read().decode()
    models = json.load(urllib.request.urlopen(answer["url"] + "v1/models"))["models"]
    print("served", len(page) > 1000, sorted(m["name"] for m in models))
    os.kill(os.getpid(), signal.SIGTERM)


done("tune", "mat", *[s for s in SMALL if s != "--no-report"], "--team=local", "--trials=1", "--name=search")
replicas = {"predictors": 1, "max_predictors": None, "gpus": 0.0, "threads": 1, "batch": 16}
settings = models.settings((), None, demo=True, token_file=None, limits={"seconds": 30.0}, **replicas)
where = options.Where(port=int(sys.argv[1]), host_by="ray", names=models.names(settings, say=print))
service.serve(settings, where, ready=ready, say=print)
"""


def environment(folder: Path, *, wheel: Path | None = None) -> Path:
    """The interpreter of a fresh environment that has our dependencies, and Sparring from a wheel, or from the clone in place."""
    venv.create(folder, system_site_packages=False, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    paths = [p for p in sys.path if p.endswith("site-packages")]  # as plain folders: their own .pth files do not count
    if wheel is None:
        link = folder / "in-place"
        link.mkdir()
        (link / "sparring.py").symlink_to(CLONE / "sparring.py")
        paths.insert(0, str(link))
    (site / "dependencies.pth").write_text("\n".join(paths))
    python = folder / "bin" / "python"
    if wheel is not None:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel)], check=True)
    return python


def plant(python: Path, user: Path) -> None:
    """Packages and modules of the names of our folders, which raise when they are imported, where Python looks first."""
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    for name in NAMES:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(FOREIGN)
        (site / name / "__main__.py").write_text(FOREIGN)
    for name in ("agents.py", "trainers.py"):
        (user / name).write_text(FOREIGN)
    for name in ("serve", "cluster"):
        (user / name).mkdir()
        (user / name / "__init__.py").write_text(FOREIGN)


def walk(python: Path, user: Path, *, whole: bool) -> str:
    """Train in one process and over Ray and evaluate on workers; the whole walk also searches and serves. What was printed."""
    (user / "mine.py").write_text(WALK + (MORE if whole else ""))
    command = [str(python), "mine.py", str(free_port())]
    done = subprocess.run(command, cwd=user, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
