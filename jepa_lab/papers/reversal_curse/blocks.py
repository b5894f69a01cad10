"""Transformer blocks for very short sequences: causal, without positions, as in Wang & Sun's code.

A block can compute its last positions alone; a last block of which one position is read then costs a third.
Shape suffixes: B batch, S positions, Q positions that are computed, D width, H heads, K numbers per head.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm causal transformer block (GPT-2's, with tanh GELU), optionally evaluated only at its last positions.

    Raises ValueError where the width does not split into the heads.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0, depth: int = 1):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not split into {heads} heads; choose a divisor of the width")
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge, self.up, self.down = nn.Linear(width, width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        for linear in (self.query, self.key_value, self.up, self.merge, self.down):
            # GPT-2: the two layers that write to the residual stream start smaller
            residual = linear in (self.merge, self.down)
            nn.init.normal_(linear.weight, std=0.02 / (2 * depth) ** 0.5 if residual else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x_BSD: Float[Tensor, "B S D"], seen_BS: Bool[Tensor, "B S"] | None = None, read: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Outputs at the last `read` positions (by default all). seen_BS: False where a position is padding."""
        first = 0 if read is None else x_BSD.shape[1] - read
        y_BSD, tail_BQD = self.norm_attention(x_BSD), x_BSD[:, first:]
        key_BSD, value_BSD = self.key_value(y_BSD).chunk(2, dim=-1)
        mixed_BQD = self.attend(self.query(y_BSD[:, first:]), key_BSD, value_BSD, seen_BS)
        x_BQD = tail_BQD + F.dropout(self.merge(mixed_BQD), self.dropout, self.training)
        hidden = F.gelu(self.up(self.norm_mlp(x_BQD)), approximate="tanh")
        return x_BQD + F.dropout(self.down(hidden), self.dropout, self.training)

    def attend(
        self,
        query_BQD: Float[Tensor, "B Q D"],
        key_BSD: Float[Tensor, "B S D"],
        value_BSD: Float[Tensor, "B S D"],
        seen_BS: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """Causal attention of the last positions.

        The batch is the innermost axis: for 2 to 7 positions this is faster than many small matrix products. Sums are
        in float32 also under bf16 autocast, which would round at every term.
        """
        q_QHKB, k_SHKB, v_SHKB = (
            rearrange(x, "b s (h k) -> s h k b", h=self.heads).contiguous().float()
            for x in (query_BQD, key_BSD, value_BSD)
        )
        weights_QSHB = Dot.apply(q_QHKB, k_SHKB) * k_SHKB.shape[2] ** -0.5
        if len(q_QHKB) > 1 or seen_BS is not None:
            allowed = _allowed(len(q_QHKB), len(k_SHKB), seen_BS, k_SHKB.device)
            # not -inf: a row with nothing but padding must not become NaN
            weights_QSHB = weights_QSHB.masked_fill(~allowed, -1e4)
        weights_QSHB = F.dropout(weights_QSHB.softmax(1), self.dropout, self.training)
        return rearrange(Blend.apply(weights_QSHB, v_SHKB), "q h k b -> b q (h k)").to(value_BSD.dtype)


def _allowed(
    num_read: int, num_positions: int, seen_BS: Bool[Tensor, "B S"] | None, device: torch.device
) -> Bool[Tensor, "Q S 1 b"]:
    """Which position (S) each of the last positions (Q) may look at: none after itself and no padding."""
    causal_SS = torch.ones(num_positions, num_positions, dtype=torch.bool, device=device).tril()
    causal_QS11 = causal_SS[num_positions - num_read :, :, None, None]
    if seen_BS is None:
        return causal_QS11
    return causal_QS11 & rearrange(seen_BS, "b s -> s 1 b")


def dot(q_QHKB: Float[Tensor, "Q H K B"], k_SHKB: Float[Tensor, "S H K B"]) -> Float[Tensor, "Q S H B"]:
    """Scalar products over K.

    A GPU computes one matrix product. A CPU adds up in place, because the product before the sum is K times as large.
    """
    if q_QHKB.is_cuda:
        return einsum(q_QHKB, k_SHKB, "q h k b, s h k b -> q s h b").float()
    total_QSHB = q_QHKB[:, None, :, 0] * k_SHKB[:, :, 0]
    for i in range(1, q_QHKB.shape[2]):
        total_QSHB.addcmul_(q_QHKB[:, None, :, i], k_SHKB[:, :, i])
    return total_QSHB


def blend(weights_QSHB: Float[Tensor, "Q S H B"], v_SHKB: Float[Tensor, "S H K B"]) -> Float[Tensor, "Q H K B"]:
    """Weighted sums over S; on a CPU in place, as in `dot`."""
    if v_SHKB.is_cuda:
        return einsum(weights_QSHB, v_SHKB, "q s h b, s h k b -> q h k b").float()
    total_QHKB = weights_QSHB[:, 0, :, None] * v_SHKB[0]
    for i in range(1, len(v_SHKB)):
        total_QHKB.addcmul_(weights_QSHB[:, i, :, None], v_SHKB[i])
    return total_QHKB


class Dot(torch.autograd.Function):
    """`dot` with its gradients, which are two blends."""

    @staticmethod
    def forward(ctx, q, k):
        ctx.save_for_backward(q, k)
        return dot(q, k)

    @staticmethod
    def backward(ctx, grad):
        q, k = ctx.saved_tensors
        return blend(grad, k), blend(rearrange(grad, "q s h b -> s q h b"), q)


class Blend(torch.autograd.Function):
    """`blend` with its gradients, a dot and a blend."""

    @staticmethod
    def forward(ctx, weights, v):
        ctx.save_for_backward(weights, v)
        return blend(weights, v)

    @staticmethod
    def backward(ctx, grad):
        weights, v = ctx.saved_tensors
        return dot(grad, v), blend(rearrange(weights, "q s h b -> s q h b"), grad)
