"""Networks: any size and channel count, normalisation inside, weights from a key."""

from __future__ import annotations

import pytest
import torch

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig


def config(spec: str = "small_cnn:width=4", **changes: object) -> NetworkConfig:
    values = {
        "spec": spec,
        "channels": 3,
        "height": 32,
        "width": 32,
        "classes": 7,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
    }
    return NetworkConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (3, 64, 48), (4, 5, 7)])
def test_any_size_and_channels(channels: int, height: int, width: int) -> None:
    model = networks.build(
        config(channels=channels, height=height, width=width, mean=(0.5,) * channels, std=(0.2,) * channels)
    )
    x = torch.rand(2, channels, height, width)
    maps, logits = model.features(x)
    assert torch.equal(model.eval()(x), model(x))
    assert logits.shape == (2, 7)
    assert [m.shape[1] for m in maps] == [4, 8, 16]
    assert all((m >= 0).all() for m in maps)


def test_normalisation_is_inside_and_saved() -> None:
    model = networks.build(config(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))).eval()
    x = torch.rand(2, 3, 8, 8)
    expected = (x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    assert torch.equal(model.normalise(x), expected)
    assert {"mean", "std"} <= set(model.state_dict())
    assert "mean" not in dict(model.named_parameters())


def test_weights_come_from_the_key_only() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = networks.build(config(), 0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    b, other = networks.build(config(), 0, 1), networks.build(config(), 0, 2)
    assert torch.equal(a.fc.weight, b.fc.weight)
    assert not torch.equal(a.fc.weight, other.fc.weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smal_cnn", "network 'smal_cnn' is unknown. Did you mean 'small_cnn'?"),
        ("small_cnn:widht=3", "no option 'widht'; allowed: width"),
        ("small_cnn:width", "write for example small_cnn:width=16"),
        ("small_cnn:width=0", "width = 0 is not allowed; expected a whole number of 1 or more"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below, it holds special characters
        networks.build(config(spec))
    assert message in str(caught.value)


def test_json_round_trip() -> None:
    assert NetworkConfig.from_json(config().to_json()) == config()
