"""Pre-norm transformers: a block, a decoder over vectors or ids, a vision transformer.

torchvision's VisionTransformer has three input channels, a class token and no mask; torch's TransformerEncoderLayer
packs its projections and in evaluation takes a fused path that vmap runs replica by replica. Both are what these are
tested against. Attention is torch's scaled_dot_product_attention. Under vmap its fused CPU kernel is right, but runs
replica by replica: stacks choose the plain kernel, own vmaps do so by
`with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`, which second derivatives need as well.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

SPREAD = 0.02  # standard deviation of initial positions and embeddings, as in GPT-2


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), GELU between two linear layers; no dropout.

    Its twelve tensors are weight and bias of norm1, qkv, proj, norm2, fc1, fc2.

    Args:
        width: of a token, >= 1, a multiple of heads.
        heads: >= 1.
        mlp: hidden width, >= 1; None is 4 width.

    Shapes:
        x (n, T, width); mask (T, T), (n, 1, T, T) or (n, heads, T, T) bool, True where the row's token reads the
        column's (in every row one at least, its own for instance) -> (n, T, width).

    Raises:
        ValueError: a count out of range, or a mask beside causal.

    Example:
        >>> Block(8, heads=2)(torch.zeros(3, 5, 8), causal=True).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int, mlp: int | None = None) -> None:
        super().__init__()
        mlp = 4 * width if mlp is None else mlp
        if min(width, heads, mlp) < 1 or width % heads:
            raise ValueError(
                f"Block needs width a multiple of heads, all >= 1, got {width=}, {heads=}, {mlp=}"
            )
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def attend(
        self, x: Float[Tensor, "n T w"], mask: Bool[Tensor, "..."] | None = None, causal: bool = False
    ) -> Float[Tensor, "n T w"]:
        """Projected attention of tokens that are normalised already."""
        if causal and mask is not None:
            raise ValueError("Block takes a mask or causal=True, not both: a mask can be lower triangular")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.proj(heads.transpose(1, 2).flatten(2))

    def forward(
        self, x: Float[Tensor, "n T w"], mask: Bool[Tensor, "..."] | None = None, causal: bool = False
    ) -> Float[Tensor, "n T w"]:
        x = x + self.attend(self.norm1(x), mask, causal)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Decoder(nn.Module):
    """Causal transformer with learned positions over vectors or ids: output t has read tokens 0..t.

    Args:
        out: numbers of an output, >= 1.
        context: longest sequence, >= 1.
        width, depth, heads, mlp: tokens, blocks and the blocks' own.
        d: numbers of a token, for vectors; or
        vocabulary: number of ids; one of the two.

    Shapes:
        x (n, T, d) float, or (n, T) integers in [0, vocabulary) -> (n, T, out); `features(x)` (n, T, width);
        T <= context.

    Raises:
        ValueError: both or none of d and vocabulary, a count below 1, or a longer sequence.

    Example:
        >>> Decoder(5, context=8, width=16, depth=2, heads=2, vocabulary=5)(torch.zeros(2, 8, dtype=torch.long)).shape
        torch.Size([2, 8, 5])
        >>> Decoder(1, context=8, width=16, depth=2, heads=2, d=3)(torch.zeros(2, 6, 3)).shape
        torch.Size([2, 6, 1])
    """

    def __init__(
        self,
        out: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        mlp: int | None = None,
        d: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        count = vocabulary if d is None else d
        if (d is None) == (vocabulary is None) or min(out, context, depth, count or 0) < 1:
            raise ValueError(
                f"Decoder needs d (vectors) or vocabulary (ids) and counts >= 1, got {d=}, {vocabulary=}, {out=}, "
                f"{context=}, {depth=}"
            )
        if vocabulary is None:
            self.embed: nn.Module = nn.Linear(d or 0, width)
        else:
            self.embed = nn.Embedding(vocabulary, width)
            nn.init.normal_(self.embed.weight, std=SPREAD)
        self.positions = nn.Parameter(SPREAD * torch.randn(context, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(depth))
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, out)

    def features(self, x: Float[Tensor, "n T d"] | Int[Tensor, "n T"]) -> Float[Tensor, "n T w"]:
        """Normalised tokens behind the last block."""
        if x.shape[1] > len(self.positions):
            raise ValueError(f"Decoder reads at most context={len(self.positions)} tokens, got {x.shape[1]}")
        h = self.embed(x) + self.positions[: x.shape[1]]
        for block in self.blocks:
            h = block(h, causal=True)
        return self.norm(h)

    def forward(self, x: Float[Tensor, "n T d"] | Int[Tensor, "n T"]) -> Float[Tensor, "n T K"]:
        return self.scores(self.features(x))


class ViT(nn.Module):
    """Vision transformer: patches, learned positions, blocks, norm, mean over tokens (no class token), linear scores.

    Args:
        channels: of the images, >= 1.
        classes: number of scores, >= 1.
        side: of the images in pixels, a multiple of patch.
        patch: side of a patch, >= 1.
        width, depth, heads, mlp: tokens, blocks and the blocks' own.

    Shapes:
        x (n, channels, side, side) float -> (n, classes); `features(x)` (n, width).

    Raises:
        ValueError: a count below 1, or a side that is no multiple.

    Example:
        >>> ViT(1, 10, 28, patch=7, width=16, depth=2, heads=4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        side: int,
        patch: int = 7,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp: int | None = None,
    ) -> None:
        super().__init__()
        if min(channels, classes, side, patch, depth) < 1 or side % patch:
            raise ValueError(
                f"ViT needs counts >= 1 and side a multiple of patch, got {channels=}, {classes=}, {side=}, {patch=}, "
                f"{depth=}"
            )
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(SPREAD * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(depth))
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, classes)

    def features(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n w"]:
        """Mean of the normalised tokens."""
        h = self.patches(x).flatten(2).mT + self.positions
        for block in self.blocks:
            h = block(h)
        return self.norm(h).mean(1)

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        return self.scores(self.features(x))
