"""The network as attacks run it: the same function and gradient, in every architecture; and who is left alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from sparring.agents import networks
from sparring.agents.exchange import map_leaves
from sparring.agents.fast import Fast
from sparring.agents.networks import NetworkConfig
from sparring.trainers.config import SpeedConfig
from sparring.trainers.methods.adaad import Adaad
from sparring.trainers.methods.adaiad import Adaiad
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.methods.mat import Mat
from sparring.trainers.methods.mixacm import Mixacm
from sparring.trainers.methods.mtard import Mtard
from sparring.trainers.methods.peeraid import Peeraid
from sparring.trainers.methods.trades import Trades
from tests.helpers import TinyNet, losses, make_team

SPECS = ("small_cnn:width=4", "resnet18", "resnet56", "preact_resnet18", "wrn-16-4", "wrn-22-6", "mobilenet_v2")
FOLDED = {
    "small_cnn:width=4": 3,
    "resnet18": 20,
    "resnet56": 57,
    "preact_resnet18": 8,
    "wrn-16-4": 6,
    "mobilenet_v2": 57,
}


def used(spec: str) -> networks.Network:
    """A network whose batch norm has seen images and whose scales and shifts are no longer one and zero."""
    network = networks.build(NetworkConfig(spec, 3, 16, 16, 10, (0.5,) * 3, (0.2,) * 3), 1).double().train()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for _ in range(2):
            network(torch.rand(8, 3, 16, 16, dtype=torch.float64))
    return network.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_function_and_gradient(spec: str) -> None:
    network = used(spec)
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    fast = Fast.of(network, x)
    assert fast is not None
    if spec in FOLDED:
        assert norms(network) - norms(fast) == FOLDED[spec]
    scale = float(network(x).abs().max().detach())
    given, made = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(fast(made), network(given), rtol=1e-9, atol=1e-10 * scale)
    network(given)[:, 3].sum().backward()
    fast(made)[:, 3].sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(made.grad, given.grad, rtol=1e-8, atol=1e-9 * float(given.grad.abs().max()))
    for ours, theirs in zip(fast.features(x)[0], network.features(x)[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max().detach()))


@pytest.mark.parametrize("spec", ["preact_resnet18", "wrn-16-4", "resnet18"])
def test_every_convolution_lies_channels_last(spec: str) -> None:
    """Also one without batch norm behind it: its weights would be copied at every pass."""
    fast = Fast.of(used(spec), torch.rand(2, 3, 16, 16, dtype=torch.float64))
    assert fast is not None
    weights = [m.weight for m in fast.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(weights) >= 13
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class Means(nn.Module):
    """Means over the places of maps and of tokens, as people write them."""

    def __init__(self, places: Any) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(3, 4, 3), places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return (
            maps.mean(self.places) + maps.flatten(2).unsqueeze(1).mean((2, 3)) + maps.flatten(2).mean((-2, -1))[:, None]
        )


@pytest.mark.parametrize("places", [(2, 3), [2, 3], (-2, -1), [-2, -1]])
def test_means_over_places(places: Any) -> None:
    network, x = Means(places).double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    fast = Fast.of(network, x)
    assert fast is not None
    torch.testing.assert_close(fast(x), network(x))


def test_it_follows_the_network_when_refreshed() -> None:
    network = used("small_cnn:width=4")
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    fast = Fast.of(network, x)
    assert fast is not None
    with torch.no_grad():
        for tensor in (
            *network.parameters(),
            *(b for b in network.buffers() if b.is_floating_point() and b.dim() == 1),
        ):
            tensor.mul_(1.1)
    assert not torch.allclose(fast(x), network(x))
    fast.refresh()
    torch.testing.assert_close(fast(x), network(x), rtol=1e-9, atol=1e-12)
    assert not any(p.requires_grad for pair in fast._pairs for p in pair[0].parameters())
    assert all(p.requires_grad for p in network.parameters())


class Branches(TinyNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.mean() > 0.5 else -x)


class Draws(TinyNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.rand(1).item())


class Remembers(TinyNet):
    """Counts its passes and keeps what it saw last, in attributes and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.last, self.seen = 0, None, list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        self.last = super().forward(x)
        self.seen.append(self.last)
        return self.last


def test_tracing_leaves_nothing_in_the_network() -> None:
    network, x = Remembers().eval(), torch.rand(2, 1, 8, 8)
    assert Fast.of(network, x) is not None
    assert network.passes == 1  # the images on which both forms must agree
    assert isinstance(network.last, torch.Tensor)
    assert [type(logits) for logits in network.seen] == [torch.Tensor]


class Indexed(TinyNet):
    """Computes from a buffer, as Swin indexes its table of positions, and makes a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale.view(-1) + torch.arange(4.0)


def test_what_is_computed_from_a_buffer_follows_it() -> None:
    network, x = Indexed().eval(), torch.rand(2, 1, 8, 8)
    fast = Fast.of(network, x)
    assert fast is not None
    network.get_buffer("scale").fill_(3)
    fast.refresh()
    torch.testing.assert_close(fast(x), network(x))


class Dropping(TinyNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_a_network_that_trains_is_traced_as_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second trace too, for another precision or a compiler: no dropout, and no random number, in an attack."""
    monkeypatch.setattr(torch, "compile", lambda graph: graph)
    network, x = Dropping().train(), torch.rand(2, 1, 8, 8)
    for speed in (SpeedConfig(), SpeedConfig(precision="bf16"), SpeedConfig(compile=True)):
        fast = Fast.of(network, x, speed)
        assert fast is not None
        before = torch.get_rng_state()
        with torch.autocast("cpu", torch.bfloat16, enabled=speed.precision == "bf16"):
            assert (fast(x) != 0).all()
        assert torch.equal(torch.get_rng_state(), before)
        assert network.training


def test_networks_that_cannot_be_traced_run_as_they_are() -> None:
    x = torch.rand(2, 1, 8, 8)
    assert Fast.of(TinyNet(), x) is not None
    assert Fast.of(Branches(), x) is None
    assert Fast.of(Draws(), x) is None
    listened = TinyNet()
    listened.register_forward_hook(lambda m, args, out: None)
    assert Fast.of(listened, x) is None
    method = Mat()
    team = make_team(method, {"peer0": Branches(), "peer1": TinyNet()})
    method.step(team, 0)
    assert losses(team)


@pytest.mark.parametrize("method", [Mat(), Mtard(), Peeraid(), Trades()], ids=lambda m: type(m).__name__)
def test_a_run_is_the_same_to_rounding(method: Method) -> None:
    """Three steps in float64, folded and merged, against one pass after the other through hooked networks."""
    fast, plain = make_team(method), make_team(method, speed=SpeedConfig(folded=False))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for handle in plain.values():
        handle.agent.model.register_forward_hook(count)
    for t in range(3):
        method.step(fast, t)
        method.step(plain, t)
        assert losses(fast) == pytest.approx(losses(plain), rel=1e-10)
    assert calls > 0
    for role, handle in fast.items():
        theirs = plain[role].agent.model.state_dict()
        for name, value in handle.agent.model.state_dict().items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-10)


def test_bfloat16_stays_inside_the_network() -> None:
    method, seen = Mat(), []
    team = make_team(method, speed=SpeedConfig(precision="bf16"), dtype=torch.float32)
    agent = team["peer0"].agent
    agent.views._fast.register_forward_hook(lambda m, args, out: seen.append(out.dtype))  # type: ignore[union-attr]
    exact = make_team(method, dtype=torch.float32)
    for t in range(2):
        method.step(team, t)
        method.step(exact, t)
    assert set(seen) == {torch.bfloat16}
    assert losses(team) == pytest.approx(losses(exact), rel=0.05)
    assert losses(team) != losses(exact)
    assert {p.dtype for p in agent.model.parameters()} == {torch.float32}
    assert Model(agent.model)(agent.batches.batch(0).x).dtype == torch.float32


@pytest.mark.parametrize(
    "method", [Mat(), Adaad(), Adaiad(), Mixacm(transform="forced_affine")], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("folded", [True, False])
def test_losses_are_computed_in_the_images_own_type(
    method: Method, folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a loss is given under bfloat16: own passes, networks beside, what a method trains besides."""
    seen: list[torch.dtype] = []
    original = type(method).loss

    def loss(self: Any, me: str, own: Any, batch: Any, **given: Any) -> Any:
        map_leaves(
            lambda a: seen.append(a.dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else None,
            (own, given),
        )
        return original(self, me, own, batch, **given)

    monkeypatch.setattr(type(method), "loss", loss)
    team = make_team(method, speed=SpeedConfig(precision="bf16", folded=folded), dtype=torch.float32)
    method.step(team, 0)
    assert set(seen) == {torch.float32}


def test_both_forms_are_compared_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an NVIDIA GPU would compare two different roundings to 10 bits, and find the folded one wrong."""
    seen = []

    class Looked(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not isinstance(x, torch.fx.Proxy):
                seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert Fast.of(Looked().eval(), torch.rand(2, 1, 8, 8)) is not None
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torch.compile's tracing, without its C++ compiler, which takes half a minute: new weights are seen."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    network = TinyNet().eval()
    x = torch.rand(4, 1, 8, 8)
    fast = Fast.of(network, x[:2], SpeedConfig(compile=True))
    assert fast is not None
    given, made = x.clone().requires_grad_(), x.clone().requires_grad_()
    network(given).square().sum().backward()
    fast(made).square().sum().backward()
    torch.testing.assert_close(made.grad, given.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    fast.refresh()
    torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-5)
