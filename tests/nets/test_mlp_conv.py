"""MLP and ConvNet: shapes, initial weights, what they equal of torch's, the condensation net bit for bit."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.nets import MLP, ConvNet, SmallConv
from lossatlas.papers.dcc import ConvNet as CondensationNet


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make()


@pytest.mark.parametrize("order", ["norm_act", "act_norm"])
def test_mlp_with_batch_norm_is_its_layers_in_the_order_said(order):
    net = seeded(lambda: MLP(3, [5, 4], 2, activation="relu", norm="batch", order=order))
    kinds = [type(m) for m in net]
    pair = [nn.BatchNorm1d, nn.ReLU] if order == "norm_act" else [nn.ReLU, nn.BatchNorm1d]
    assert kinds == [nn.Linear, *pair, nn.Linear, *pair, nn.Linear]
    x = torch.randn(7, 3)
    hidden = net[3](net[2](net[1](net[0](x))))
    assert_close(net.features(x), net[5](net[4](hidden)))
    assert_close(net(x), net[6](net.features(x)))
    if order == "act_norm":  # what the scores read is standardised
        assert_close(net.features(x).mean(0), torch.zeros(4), atol=1e-6, rtol=0)


def test_a_plain_mlp_draws_what_it_drew():
    net = seeded(lambda: MLP(3, [5], 2))
    hand = seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
    assert list(net.state_dict()) == list(hand.state_dict())
    assert all(a.equal(b) for a, b in zip(net.parameters(), hand.parameters(), strict=True))


def test_he_keeps_the_second_moment_behind_relu():
    net = seeded(lambda: MLP(512, [512] * 5, 1, activation="relu", init="he"))
    x = torch.randn(400, 512)
    assert net.features(x).square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.25)
    plain = seeded(lambda: MLP(512, [512] * 5, 1, activation="relu"))
    assert plain.features(x).square().mean().item() < 0.01
    assert all(m.bias.abs().max() == 0 for m in net if isinstance(m, nn.Linear))


@pytest.mark.parametrize(
    "wrong", [{"norm": "layer"}, {"order": "norm"}, {"init": "xavier"}, {"activation": "sinc"}]
)
def test_mlp_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match="MLP"):
        MLP(3, [4], 2, **wrong)


# ------------------------------------------------------------------ ConvNet
def condensation_net(channels, classes, side, width, depth):
    """The layers of the condensation papers' network, written out."""
    blocks = []
    for c_in in [channels, *[width] * (depth - 1)]:
        blocks += [
            nn.Conv2d(c_in, width, 3, padding=1),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    net = nn.Module()
    net.features = nn.Sequential(*blocks, nn.Flatten())
    net.scores = nn.Linear(width * (side >> depth) ** 2, classes)
    return net


@pytest.mark.parametrize("shape", [(1, 5, 14, 16, 2), (3, 10, 32, 8, 3)])
def test_the_condensation_net_is_bitwise_what_it_was(shape):
    channels, _, side, *_ = shape
    net, hand = seeded(lambda: CondensationNet(*shape)), seeded(lambda: condensation_net(*shape))
    assert list(net.state_dict()) == list(hand.state_dict())
    x = torch.randn(6, channels, side, side)
    out, expected = net(x), hand.scores(hand.features(x))
    assert out.equal(expected)
    for loss, module in ((out, net), (expected, hand)):
        loss.square().sum().backward()
        torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9).step()
    assert all(a.equal(b) for a, b in zip(net.parameters(), hand.parameters(), strict=True))


def test_small_conv_is_one_of_them():
    net = ConvNet(1, 10, 28, widths=[16, 32, 64], strides=2, norm="batch")
    other = SmallConv()
    net.load_state_dict(other.state_dict())
    x = torch.randn(4, 1, 28, 28)
    assert_close(net(x), other(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ({"widths": [16, 32], "pool": 2, "ceil": True, "pooling": "max", "head": "flatten"}, 512),  # 14, 7, 4
        ({"widths": [16, 32], "pool": 2, "head": "flatten"}, 288),  # 14, 7, 3
        (
            {
                "widths": [4, 8, 8],
                "strides": [2, 1, 2],
                "pool": [1, 2, 1],
                "norm": "batch",
                "head": "flatten",
            },
            32,
        ),
        ({"widths": [4, 8], "head": "avgmax", "norm": "instance"}, 16),
        ({"widths": [4, 8], "head": "gap"}, 8),
        ({"widths": [8, 16], "strides": 2, "head": "flatten", "hidden": [32, 9]}, 9),
    ],
)
def test_features_are_what_the_scores_read(given, features):
    net = seeded(lambda: ConvNet(2, 3, 14, **given))
    x = torch.randn(5, 2, 14, 14)
    assert net.features(x).shape == (5, features)
    assert net(x).equal(net.scores(net.features(x)))


def test_heads_forget_places_as_they_say():
    x = torch.randn(3, 2, 8, 8)
    for head, same in (("gap", True), ("avgmax", True), ("flatten", False)):
        net = seeded(lambda head=head: ConvNet(2, 4, 8, widths=[6], head=head))
        net.features[0].padding_mode, net.features[0]._reversed_padding_repeated_twice = "circular", [1] * 4
        assert torch.allclose(net(x), net(x.roll((2, 3), (2, 3))), atol=1e-6) == same


@pytest.mark.parametrize(
    "wrong",
    [{"widths": []}, {"widths": [4], "pool": [2, 2]}, {"widths": [4, 0]}, {"widths": [4], "norm": "layer"},
     {"widths": [4] * 4, "pool": 2}, {"widths": [4], "head": "max"}, {"widths": [4], "pooling": "sum"}],
)  # fmt: skip
def test_conv_net_refuses(wrong):
    with pytest.raises(ValueError, match="ConvNet"):
        ConvNet(1, 2, 8, **wrong)
