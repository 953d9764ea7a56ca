"""Where a role's weights may come from, and what is said when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig
from tests.conftest import Command
from tests.helpers import small_flags

FLAGS = [*small_flags(max_steps=2), "--team=local", "--no-report"]
CONFIG = NetworkConfig("small_cnn:width=4", 1, 8, 8, 10, (0.0,), (1.0,))


def weights(path: str, config: NetworkConfig = CONFIG, prefix: str = "") -> None:
    model = networks.build(config, 1)
    content = {prefix + k: v for k, v in model.state_dict().items() if k not in ("mean", "std")}
    torch.save(content, path) if path.endswith(".pt") else save_file(content, path)


def test_files_from_elsewhere(sparring: Command, tmp_path: Path) -> None:
    """A .pt with a mapping file and a .safetensors: both become networks of ours; resume needs neither file."""
    weights("a.pt", prefix="old.")
    weights("b.safetensors")
    Path("names.yaml").write_text("keys: {'^old\\.': ''}\nmean: [0.1]\nstd: [0.5]\n")
    cache = f"--data.cache={tmp_path / 'cache'}"
    clean = ["--agents.clean-teacher.init=a.pt", "--agents.clean-teacher.mapping=names.yaml"]
    clean += ["--agents.clean-teacher.network=small_cnn:width=4"]
    robust = ["--agents.robust-teacher.init=b.safetensors", "--agents.robust-teacher.network=small_cnn:width=4"]
    done = sparring("train", "mtard", *FLAGS, cache, *clean, *robust, "--name=s")
    assert done.returncode == 0, done.stderr
    assert "which is near chance" in done.stderr  # they are random weights
    known = json.loads(Path("runs/s/env.json").read_text())["teachers"]
    assert known["clean_teacher"]["sha256"] != known["robust_teacher"]["sha256"]  # the mean is part of the weights
    Path("a.pt").unlink()
    assert sparring("resume", "runs/s").returncode == 0
    bad = sparring("train", "mtard", *FLAGS, cache, *robust, "--agents.clean-teacher.init=b.safetensors")
    assert bad.returncode == 2
    assert "say of what network: --agents.clean-teacher.network" in bad.stderr
    weights("a.pt", prefix="old.")
    for content, text in (
        ("key: 3", "key is unknown"),
        ("keys: {'(': ''}", "is no mapping of names: "),
        ("drop: 3", "is no mapping of names: "),
        ("std: [0]", "std = [0.0] must be > 0"),
        ("mean: [0, 0, 0]", "3 means and 1 deviations do not suit images of 1 channels"),
    ):
        Path("names.yaml").write_text(content)
        bad = sparring("train", "mtard", *FLAGS, cache, *clean, *robust)
        assert bad.returncode == 2
        assert text in bad.stderr


def test_what_does_not_fit_is_said_before_a_folder_is_left(sparring: Command, tmp_path: Path) -> None:
    """A web page, a cut file, other classes, a role without weights."""
    Path("page.pt").write_text("<html>not found</html>")
    weights("whole.pt")
    Path("empty.pt").touch()
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    Path("cut.pt").write_bytes(Path("whole.pt").read_bytes()[:-500])
    net = "--agents.teacher.network=small_cnn:width=4"
    for init, code, text in (
        ("page.pt", 5, "is a web page"),
        ("cut.pt", 5, "is damaged"),
        ("none.pt", 5, "cannot be read"),
        ("empty.pt", 5, "is damaged"),
        ("lfs.pt", 5, "is not a file that torch.save wrote; it begins with b'version"),
        ("nowhere", 2, "is not a run, model or file of weights"),
    ):
        done = sparring("train", "rslad", *FLAGS, f"--agents.teacher.init={init}", net)
        assert done.returncode == code, done.stderr
        assert text in done.stderr
    assert "teacher does not learn and needs trained weights" in sparring("train", "rslad", *FLAGS).stderr
    weights("seven.pt", NetworkConfig("small_cnn:width=4", 1, 8, 8, 7, (0.0,), (1.0,)))
    done = sparring("train", "rslad", *FLAGS, "--agents.teacher.init=seven.pt", net)
    assert done.returncode == 5
    assert "with 10 classes" in done.stderr
    assert not list(tmp_path.glob("runs/*"))


def test_a_published_models_versions(sparring: Command, tmp_path: Path) -> None:
    """The newest version serves as a teacher; one that was altered is refused; evaluations go onto the card."""
    assert sparring("train", "at", *FLAGS, "--name=t").returncode == 0
    for _ in range(2):
        done = sparring("publish", "runs/t", "--as=teacher")
        assert done.returncode == 0, done.stderr
        assert "robustness not measured; next: sparring evaluate models/teacher/" in done.stdout
    done = sparring("evaluate", "models/teacher", "--attacks=clean,fgsm", "--examples=64", "--json")
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["report"]).parent
    assert folder == tmp_path / "models/teacher/2/evaluation/1"
    (entry,) = json.loads(Path("models/teacher/2/card.json").read_text())["evaluations"]
    assert entry["n"] == 64
    assert sparring("verify", folder).returncode == 0
    done = sparring("train", "rslad", *FLAGS, "--agents.teacher.init=models/teacher", "--name=s")
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("runs/s/env.json").read_text())["teachers"]["teacher"]["measured"] == [entry]
    file = Path("models/teacher/2/model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for init in ("models/teacher", "models/teacher/2"):
        done = sparring("train", "rslad", *FLAGS, f"--agents.teacher.init={init}")
        assert done.returncode == 5
        assert "model.safetensors is altered" in done.stderr
    done = sparring("train", "rslad", *FLAGS, "--agents.teacher.init=models/teacher/1")
    assert done.returncode == 0, done.stderr
    assert sparring("evaluate", "models/teacher", "--attacks=fgsm").returncode == 5
    assert sparring("publish", "runs/t", "--as=Not a name").returncode == 2


def test_an_ensemble_is_published_as_one_model(sparring: Command) -> None:
    assert sparring("train", "mat", *FLAGS, "--name=m").returncode == 0
    done = sparring("publish", "runs/m", "--as=both")
    assert done.returncode == 2
    assert "name one (runs/m@AGENT): peer0, peer1, or ensemble" in done.stderr
    assert sparring("publish", "runs/m", "--as=both", "--agent=ensemble").returncode == 0
    done = sparring("evaluate", "models/both", "--attacks=clean,fgsm", "--examples=32", "--json")
    assert done.returncode == 0, done.stderr
    direct = sparring("evaluate", "ensemble:runs/m", "--attacks=clean,fgsm", "--examples=32", "--json")
    assert json.loads(done.stdout)["threats"] == json.loads(direct.stdout)["threats"]
