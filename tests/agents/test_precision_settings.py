"""torch's precision settings, whatever a user has set and by which names: float32 is computed as such, and the settings come back."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

import sparring
from sparring.agents.precision import arithmetic
from sparring.trainers import attacks, half
from sparring.trainers.config import Attack, NormName
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator, seeded

BACKENDS = torch.backends
OPERATORS = (
    *(BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn),
    *(BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn),
)
EVERYWHERE = (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn, *OPERATORS)


def setting(place: object, value: str) -> Callable[[], None]:
    return lambda: setattr(place, "fp32_precision", value)


SETTINGS: dict[str, Callable[[], None]] = {
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "ieee": setting(BACKENDS, "ieee"),
    "tf32": setting(BACKENDS, "tf32"),
    "cudnn": setting(BACKENDS.cudnn, "tf32"),
    "conv": setting(BACKENDS.cudnn.conv, "ieee"),
    "cpu": setting(BACKENDS.mkldnn, "bf16"),
}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = [(place, place.fp32_precision) for place in EVERYWHERE]
    older = BACKENDS.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    BACKENDS.cudnn.allow_tf32 = older[0]
    torch.set_float32_matmul_precision(older[1])
    for place, value in before:
        place.fp32_precision = value


def seen() -> list[str]:
    return [place.fp32_precision for place in EVERYWHERE]


@pytest.mark.parametrize("order", [*itertools.permutations(SETTINGS, 2), *((name,) for name in SETTINGS)], ids="-".join)
def test_settings_in_every_order(order: tuple[str, ...]) -> None:
    for name in order:
        SETTINGS[name]()
    before = seen()
    for block in (arithmetic("fp32"), arithmetic("tf32")):
        with block:
            assert {o.fp32_precision for o in OPERATORS[3:]} == {"ieee"}
        assert seen() == before
    with arithmetic("fp32"):
        assert {o.fp32_precision for o in OPERATORS} == {"ieee"}
    BACKENDS.fp32_precision = "tf32"  # what has no setting of its own still follows
    following = seen()
    with arithmetic("fp32"):
        pass
    assert seen() == following


def test_who_reads_the_older_names_inside_still_can() -> None:
    before = BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32
    for wanted in ("fp32", "tf32"):
        with arithmetic(wanted):
            assert BACKENDS.cudnn.allow_tf32 == BACKENDS.cuda.matmul.allow_tf32 == (wanted == "tf32")
        assert (BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32) == before


def test_blocks_of_two_threads_that_overlap_leave_the_settings_as_they_were() -> None:
    """The second begins inside the first and ends after it; what it found was the first one's, and is nobody's to give back."""
    before = seen(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32
    begun, ended = threading.Event(), threading.Event()

    def second() -> None:
        with arithmetic("tf32"):
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=second)
    with arithmetic("fp32"):
        thread.start()
        assert begun.wait(60)
    assert {o.fp32_precision for o in OPERATORS[:3]} == {"tf32"}  # the one still open decides
    ended.set()
    thread.join(60)
    assert (seen(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32) == before


def test_a_block_inside_another_gives_back_the_outer_ones() -> None:
    with arithmetic("tf32"):
        with arithmetic("fp32"):
            assert {o.fp32_precision for o in OPERATORS} == {"ieee"}
        assert {o.fp32_precision for o in OPERATORS[:3]} == {"tf32"}


@pytest.mark.parametrize("name", SETTINGS)
def test_evaluate_and_attack_under_them(name: str) -> None:
    with seeded("settings"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
        x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    right = sparring.attack(model, x, y, eps=0.1, steps=3)
    clean = sparring.evaluate(model, "digits", attacks=["pgd-2", "square-3"], threats=["linf:0.1"], examples=70)
    SETTINGS[name]()
    before = seen()
    assert torch.equal(sparring.attack(model, x, y, eps=0.1, steps=3), right)
    again = sparring.evaluate(model, "digits", attacks=["pgd-2", "square-3"], threats=["linf:0.1"], examples=70)
    assert again == clean
    assert seen() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 0.5 / 255), ("l2", 0.5), ("l1", 4.0)])
def test_an_attack_in_half_precision_stays_in_the_ball(norm: NormName, eps: float, dtype: torch.dtype) -> None:
    """Also after the rounding of what is returned; and it moves pixels by less than the type's own steps allow."""
    with seeded("half"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10)).to(dtype).eval()
        x, y = torch.rand(16, 3, 8, 8).to(dtype), torch.arange(16) % 10
    attack = Attack(norm=norm, eps=eps, steps=5)
    adv = attacks.run(attack, lambda z: cross_entropy(model(z), y), x, rng=generator(0))
    assert adv.dtype == dtype
    off = adv.double() - x.double()
    assert attacks.BALLS[norm].length(off).max() <= eps * (1 + 1e-6)
    assert adv.min() >= 0
    assert adv.max() <= 1
    if eps == 8 / 255:
        assert (off != 0).double().mean() > 0.5


def test_rounding_goes_towards_the_image() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0]).to(torch.bfloat16)
    adv = torch.tensor([0.001, 0.2531, 0.4991, 0.9999])
    near = half.towards(adv, x)
    assert ((near.float() - x.float()).abs() <= (adv - x.float()).abs()).all()
    assert torch.equal(half.towards(x.float(), x), x)
