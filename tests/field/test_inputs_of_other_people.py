"""Images, labels and networks as people hold them in a notebook: what can be meant in one way works, the rest is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparring
from sparring.agents.checkpoint import load_model
from sparring.cluster.models.examples import load_test
from sparring.trainers.autoattack import passes
from sparring.trainers.config import DataConfig, NormName
from tests.helpers import CLONE

EPS = 0.1


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return load_model(CLONE / "tests" / "networks" / "honest-0").eval()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    split = load_test(DataConfig(), 24)
    return split.pixels().contiguous(), split.all_labels()


@pytest.fixture(scope="module")
def right(net: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return sparring.attack(net, *data, eps=EPS, steps=3)


class Told(nn.Module):
    """Answers in another form than a tensor."""

    def __init__(self, net: nn.Module, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_large_batch_in_pieces_gets_the_examples_of_the_whole(
    net: nn.Module, data: tuple[Tensor, Tensor], norm: NormName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same random starts and steps, with restarts too; pieces are what an attack takes at once, nothing else."""
    x, y = data[0][:7], data[1][:7]
    how: dict[str, Any] = {"norm": norm, "eps": {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm], "steps": 3, "restarts": 2}
    whole = sparring.attack(net, x, y, **how)
    monkeypatch.setattr(passes, "PIXELS", 0)
    monkeypatch.setattr(passes, "SMALLEST", 3)
    seen: list[int] = []
    hook = net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    pieces = sparring.attack(net, x, y, **how)
    hook.remove()
    assert {3, 1} <= set(seen)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_width(kind: torch.dtype, net: nn.Module, data: tuple[Tensor, Tensor], right: Tensor) -> None:
    """bethgelab/foolbox#666 (Int on a GPU), Trusted-AI/adversarial-robustness-toolbox#2116 (Byte)."""
    assert torch.equal(sparring.attack(net, data[0], data[1].to(kind), eps=EPS, steps=3), right)


def test_arrays(net: nn.Module, data: tuple[Tensor, Tensor], right: Tensor) -> None:
    """Images and labels that came out of numpy."""
    x, y = (part.numpy() for part in data)
    assert torch.equal(sparring.attack(net, x, y.astype(np.int32), eps=EPS, steps=3), right)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y.float(), "labels are float32; expected class numbers as integers: y.long()"),
        (lambda y: y > 4, "labels are bool"),
        (lambda y: nn.functional.one_hot(y, 10), r"labels are \[24, 10\], one row per image; .*y.argmax\(1\)"),
        (lambda y: y + 1, r"labels lie in 1 to 10, the network tells 10 .* are they counted from 1\? y - 1"),
        (lambda y: y - 1, "labels lie in -1 to 8"),
        (lambda y: y[:-1], r"there are 24 images and labels \[23\]"),
        (lambda y: y[:, None], r"labels \[24, 1\]; expected one class number per image"),
    ],
    ids=["float", "bool", "one-hot", "from 1", "negative", "too few", "a column"],
)
def test_labels_that_are_refused(
    change: Callable[[Tensor], Tensor], words: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    """One-hot and float labels: what Keras users bring (keras-team/autokeras#678)."""
    with pytest.raises(ValueError, match=words):
        sparring.attack(net, data[0], change(data[1]), eps=EPS)
    if "network tells" not in words:
        with pytest.raises(ValueError, match="labels"):
            sparring.evaluate(net, (data[0], change(data[1])), attacks="clean", threats="linf:0.1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (255 * x).to(torch.uint8), r"torch.uint8, bytes; .* x.float\(\) / 255"),
        (lambda x: 255 * x, r"images lie in \[0, 255\]; .*divide by 255"),
        (lambda x: -255 * (1 - x), r"images lie in \[-255, -?0\]"),
        (lambda x: (x - 0.485) / 0.229, "they look normalised: give them before that"),
        (lambda x: torch.where(x > 0.9, torch.nan, x), "of 24 hold NaN"),
        (lambda x: x[0], r"images are torch.float32 \[1, 8, 8\]; expected floating-point \[B, C, H, W\]"),
    ],
    ids=["bytes", "0 to 255", "-255 to 0", "normalised", "NaN", "one image"],
)
def test_images_that_are_refused(
    change: Callable[[Tensor], Tensor], words: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    """bethgelab/foolbox#245 (pixels of -255 to 0), MadryLab/robustness#129 and DSE-MSU/DeepRobust#33 (normalised), deepmedic/deepmedic#66
    (NaN in two images of a data set)."""
    for ask in (sparring.attack, lambda m, x, y, eps: sparring.evaluate(m, (x, y), threats="linf:0.1")):
        with pytest.raises(ValueError, match=words):
            ask(net, change(data[0]), data[1], eps=EPS)  # type: ignore[operator]


@pytest.mark.parametrize("under", [torch.no_grad, torch.inference_mode])
def test_attacks_where_gradients_are_off(
    under: Callable[[], Any], net: nn.Module, data: tuple[Tensor, Tensor], right: Tensor
) -> None:
    """BorealisAI/advertorch#79 and Trusted-AI/adversarial-robustness-toolbox#498 (no_grad around a test loop), IntelLabs/MART#249 and
    softwaremill/FoXAI#146 (inference_mode, which also marks the images that are made in it)."""
    with under():
        x = data[0] * 1
        adv = sparring.attack(net, x, data[1], eps=EPS, steps=3)
        assert not torch.is_grad_enabled()
    assert torch.equal(adv, right)


def test_weights_made_in_inference_mode(data: tuple[Tensor, Tensor]) -> None:
    with torch.inference_mode():
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"made inside torch\.inference_mode"):
        sparring.attack(made, *data, eps=EPS)


@pytest.mark.parametrize(
    "form",
    [lambda z: {"logits": z, "loss": None}, lambda z: SimpleNamespace(logits=z)],
    ids=["a dict", "an object"],
)
def test_logits_in_what_is_answered(
    form: Callable[[Tensor], Any], net: nn.Module, data: tuple[Tensor, Tensor], right: Tensor
) -> None:
    """Harry24k/adversarial-attacks-pytorch#201 (a dict with logits), huggingface/transformers#7638 (an object with .logits)."""
    told = Told(net, form)
    assert torch.equal(sparring.attack(told, *data, eps=EPS, steps=3), right)
    assert sparring.evaluate(told, data, attacks="clean", threats="linf:0.1").clean_accuracy > 0.9


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda z: (z, z[:, :2]), r"a tuple of 2: \[0\] is \[24, 10\], \[1\] is \[24, 2\]. .*return model\(x\)\[0\]"),
        (lambda z: {"out": z}, "returns dict with out; expected a tensor of logits"),
        (lambda z: None, "returns NoneType"),
        (lambda z: z.softmax(1), "probabilities .* remove the softmax"),
        (lambda z: z.argmax(1), r"returned shape \[24\]"),
        (lambda z: z / 0, "answers NaN or infinity to 24 of 24 images, first to image 0"),
    ],
    ids=["a tuple", "a dict without", "nothing", "probabilities", "classes", "NaN"],
)
def test_answers_that_are_refused(
    form: Callable[[Tensor], Any], words: str, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    """fra31/auto-attack#83 (a tuple), cleverhans-lab/cleverhans#744 (probabilities taken for logits)."""
    with pytest.raises(ValueError, match=words):
        sparring.attack(Told(net, form), *data, eps=EPS)


def test_answers_that_are_no_numbers(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """The largest of a row with NaN is the NaN: such an answer may look right. It ends an evaluation, or counts as wrong, as asked."""

    def partly(z: Tensor) -> Tensor:
        """NaN in the place of the largest logit, for every fourth image."""
        where = nn.functional.one_hot(z.argmax(1), 10).bool() & (torch.arange(len(z))[:, None] % 4 == 1)
        return z.masked_fill(where, torch.nan)

    some = Told(net, partly)
    asked: dict[str, Any] = {"attacks": "clean, pgd3", "threats": "linf:0.05"}
    with pytest.raises(ValueError, match="answers NaN or infinity to 4 of 16 images, first to image 1"):
        sparring.evaluate(some, data, **asked)
    whole, lenient = (sparring.evaluate(m, data, nan_is_wrong=True, **asked) for m in (net, some))
    assert whole == sparring.evaluate(net, data, **asked)
    lost = (torch.arange(24) % 4 == 1) & (net(data[0]).argmax(1) == data[1])
    assert lenient.clean_accuracy == pytest.approx(whole.clean_accuracy - float(lost.double().mean()))


class OnlyOnImages(nn.Module):
    """Answers NaN to what no digit of the data set is: their pixels are sixteenths."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        other = ((16 * x).frac() > 1e-3).flatten(1).any(1)
        return torch.where(other[:, None], torch.nan, self.net(x))


def test_answers_to_attacked_images_that_are_no_numbers(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Clean images get an answer: that of an attacked one is looked at too."""
    with pytest.raises(ValueError, match=r"answers NaN or infinity to \d+ of \d+ images"):
        sparring.evaluate(OnlyOnImages(net), data, attacks="clean, fgsm", threats="linf:0.05")


def test_a_plain_function(net: nn.Module, data: tuple[Tensor, Tensor], right: Tensor) -> None:
    """fra31/auto-attack#83 again: its answer is a wrapper that is no module."""
    assert torch.equal(sparring.attack(lambda x: net(x), *data, eps=EPS, steps=3), right)
    assert sparring.evaluate(lambda x: net(x), data, attacks="clean", threats="linf:0.1").n == 24


def test_an_empty_batch(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Of examples that are still right, none may be left."""
    none = data[0][:0]
    assert sparring.attack(net, none, data[1][:0], eps=EPS).shape == none.shape


def test_a_radius_of_nothing(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Harry24k/adversarial-attacks-pytorch#124: without perturbation the accuracy is that of the clean images, in any mode."""
    mixed = Told(net, lambda z: z).train()
    mixed.net.eval()
    assert torch.equal(sparring.attack(mixed, *data, eps=0), data[0])
    assert mixed.training
    assert not mixed.net.training
    result = sparring.evaluate(net, data, attacks="clean, PGD20", threats=["linf:0"])
    assert result.robust_accuracy == result.clean_accuracy


def test_a_radius_as_papers_write_it(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Harry24k/adversarial-attacks-pytorch#37: the distance is eps and no more."""
    adv = sparring.attack(net, *data, eps="8/255", steps=5, step_size="2/255")
    assert torch.equal(adv, sparring.attack(net, *data, eps=8 / 255, steps=5, step_size=2 / 255))
    assert (adv - data[0]).abs().max() <= 8 / 255 + 1e-6


def test_data_as_people_have_it(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """A name, tensors, arrays, a Dataset, a DataLoader give the same numbers; so do names of attacks in one text or in a list."""
    dataset = TensorDataset(*data)
    forms: list[Any] = [data, [part.numpy() for part in data], dataset, DataLoader(dataset, batch_size=7)]
    results = [sparring.evaluate(net, form, attacks="pgd3, clean", threats="linf:0.1", seed=1) for form in forms]
    asked: Any = sparring.evaluate(net, "digits", attacks=["pgd-3", "clean"], threats=["linf:0.1"], seed=1, examples=24)
    assert [r.threats for r in results] == [asked.threats] * 4
    for wrong in (7, [1, 2, 3], DataLoader(TensorDataset(data[0]), batch_size=4)):
        with pytest.raises(ValueError, match=r"expected a data set's name|gives no pairs|gives images as"):
            sparring.evaluate(net, wrong, threats="linf:0.1")


@pytest.mark.parametrize("classes", [3, pytest.param(2, marks=pytest.mark.soak)])
def test_two_and_three_classes(classes: int, data: tuple[Tensor, Tensor], net: nn.Module) -> None:
    """fra31/auto-attack#70, Trusted-AI/adversarial-robustness-toolbox#2399: DLR compares three logits, its targeted form four; the parts
    that need more are left out and named."""
    few = Told(net, lambda z: z[:, :classes])
    mine = data[1] < classes
    x, y = data[0][mine], data[1][mine]
    result = sparring.evaluate(few, (x, y), attacks="autoattack", threats="linf:0.05")
    assert result.robust_accuracy is not None
    assert any("fewer targets or parts than published" in note for note in result.notes)
    adv = sparring.attack(few, x, y, eps=EPS, steps=3)
    assert adv.shape == x.shape
