"""Transformers: equality with torch's and torchvision's, masks, causality, vmap."""

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from lossatlas.nets import Block, Decoder, ViT

f64 = torch.float64


def copied(theirs, ours):
    """Our block with the weights of torch's encoder layer (or torchvision's encoder block)."""
    attention = theirs.self_attn if hasattr(theirs, "self_attn") else theirs.self_attention
    first = theirs.norm1 if hasattr(theirs, "norm1") else theirs.ln_1
    second = theirs.norm2 if hasattr(theirs, "norm2") else theirs.ln_2
    fc1, fc2 = (
        (theirs.linear1, theirs.linear2) if hasattr(theirs, "linear1") else (theirs.mlp[0], theirs.mlp[3])
    )
    pairs = [
        (ours.norm1, first),
        (ours.norm2, second),
        (ours.proj, attention.out_proj),
        (ours.fc1, fc1),
        (ours.fc2, fc2),
    ]
    with torch.no_grad():
        for mine, other in pairs:
            mine.load_state_dict(other.state_dict())
        ours.qkv.weight.copy_(attention.in_proj_weight)
        ours.qkv.bias.copy_(attention.in_proj_bias)
        for mine, other in pairs[:2]:
            mine.eps = other.eps
    return ours


def torch_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=f64
    )


@pytest.mark.parametrize("kind", ["none", "causal", "mask"])
def test_block_is_torchs_encoder_layer(kind):
    theirs = torch_layer()
    ours = copied(theirs, Block(12, 3, 20).double())
    x = torch.randn(4, 6, 12, dtype=f64)
    mask = torch.rand(6, 6) < 0.5
    mask |= torch.eye(6, dtype=torch.bool)
    if kind == "none":
        assert_close(ours(x), theirs(x))
    elif kind == "causal":
        lower = torch.ones(6, 6, dtype=torch.bool).tril()
        assert_close(ours(x, causal=True), theirs(x, src_mask=~lower))
        assert_close(ours(x, causal=True), ours(x, lower))
    else:
        assert_close(ours(x, mask), theirs(x, src_mask=~mask))  # torch's masks say what is hidden
        assert_close(ours(x, mask.expand(4, 1, 6, 6)), ours(x, mask))


def test_gradient_of_a_block_by_finite_differences():
    block = Block(4, 2, 5).double()
    x = torch.randn(2, 3, 4, dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: block(x, causal=True), (x,))
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda x: block(x), (x,))


def test_tokens_without_positions_are_a_set():
    block, x, order = Block(8, 2).double(), torch.randn(2, 5, 8, dtype=f64), torch.tensor([3, 0, 4, 1, 2])
    assert_close(block(x[:, order]), block(x)[:, order])


def test_queries_that_read_history_and_themselves_do_not_see_each_other():
    """The mask of a neural process: 3 history tokens, 4 queries."""
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[:, :3] = True
    mask |= torch.eye(7, dtype=torch.bool)
    block, x = Block(8, 2), torch.randn(1, 7, 8)
    changed = x.clone()
    changed[:, 5] = 9.0
    before, after = block(x, mask), block(changed, mask)
    keep = torch.tensor([0, 1, 2, 3, 4, 6])
    assert before[:, keep].equal(after[:, keep])
    assert not before[:, 5].equal(after[:, 5])


@pytest.mark.parametrize("kind", ["ids", "vectors"])
def test_decoder_is_causal_bit_for_bit(kind):
    given = {"vocabulary": 11} if kind == "ids" else {"d": 3}
    net = Decoder(4, context=9, width=16, depth=2, heads=4, **given)
    x = torch.randint(11, (2, 9)) if kind == "ids" else torch.randn(2, 9, 3)
    other = x.clone()
    other[:, 5:] = 7
    before, after = net(x), net(other)
    assert before[:, :5].equal(after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()
    assert_close(net(x[:, :5]), before[:, :5])  # a shorter context is the same function


def test_vit_is_torchvisions_without_its_class_token():
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=5)
    ours = ViT(3, 5, 8, patch=4, width=8, depth=2, heads=2, mlp=16)
    for mine, other in zip(ours.blocks, theirs.encoder.layers, strict=True):
        copied(other, mine)
    ours.patches.load_state_dict(theirs.conv_proj.state_dict())
    with torch.no_grad():
        ours.positions.copy_(theirs.encoder.pos_embedding[0, 1:])
    ours.norm.eps = theirs.encoder.ln.eps
    x = torch.randn(2, 3, 8, 8)
    tokens = theirs._process_input(x) + theirs.encoder.pos_embedding[:, 1:]
    assert_close(
        ours.features(x), theirs.encoder.ln(theirs.encoder.layers(tokens)).mean(1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("kind", ["decoder", "vit"])
def test_replicas_under_vmap_are_the_replicas_alone(kind, backend):
    if kind == "vit":
        nets, x = (
            [ViT(1, 3, 8, patch=4, width=8, depth=1, heads=2) for _ in range(3)],
            torch.randn(3, 2, 1, 8, 8),
        )
    else:
        nets = [Decoder(3, 5, width=8, depth=1, heads=2, vocabulary=6) for _ in range(3)]
        x = torch.randint(6, (3, 2, 5))
    params, buffers = stack_module_state(nets)

    def loss(p, b, x):
        return functional_call(nets[0], (p, b), (x,)).square().mean()

    with sdpa_kernel(backend):
        grads = vmap(torch.func.grad(loss))(params, buffers, x)
    for r, net in enumerate(nets):
        net(x[r]).square().mean().backward()
        for name, p in net.named_parameters():
            assert_close(grads[name][r], p.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Block(6, 4), "multiple of heads"),
        (
            lambda: Block(4, 2)(torch.zeros(1, 3, 4), torch.ones(3, 3, dtype=torch.bool), causal=True),
            "not both",
        ),
        (lambda: Decoder(1, 4, 8, 1, 2), "d .vectors. or vocabulary"),
        (lambda: Decoder(1, 4, 8, 1, 2, d=2, vocabulary=3), "d .vectors. or vocabulary"),
        (lambda: Decoder(1, 4, 8, 1, 2, d=2)(torch.zeros(1, 5, 2)), "context=4"),
        (lambda: ViT(1, 2, 10, patch=4), "multiple of patch"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
