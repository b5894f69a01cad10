"""The encoder equals timm's, sees only what it is given, keeps registers apart, and takes other tokens than patches."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from jepa_lab.encoders import Encoder, TokenEncoder, Trunk, encode_all, encode_blocks, position_code

GRID, PATCH_DIM, WIDTH = (4, 4), 9, 16
IDX = torch.tensor([[0, 3, 5, 15], [1, 2, 8, 9]])


def build(grid=GRID, num_registers=0, seed=0, depth=2):
    torch.manual_seed(seed)
    return Encoder(grid, PATCH_DIM, WIDTH, depth, 2, num_registers)


def patches(num_tokens=16, seed=1):
    return torch.randn(2, num_tokens, PATCH_DIM, generator=torch.Generator().manual_seed(seed))


# Equal to timm


def timm_twin(ours):
    """timm's vision transformer with the weights of ours."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(
        img_size=12,
        patch_size=3,
        in_chans=1,
        num_classes=0,
        global_pool="",
        embed_dim=WIDTH,
        depth=2,
        num_heads=2,
        class_token=False,
        reg_tokens=ours.num_registers,
        no_embed_class=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    theirs.blocks.load_state_dict(ours.trunk.blocks.state_dict())
    theirs.norm.load_state_dict(ours.trunk.norm.state_dict())
    if ours.num_registers:
        theirs.reg_token.data = ours.registers_RD[None].clone()
    theirs.pos_embed.data = ours.tokens.position_ND[None].clone()
    theirs.patch_embed.proj.weight.data = ours.tokens.embed.weight.reshape(WIDTH, 1, 3, 3).clone()
    theirs.patch_embed.proj.bias.data = ours.tokens.embed.bias.clone()
    return theirs.eval()


@pytest.mark.parametrize("num_registers", [0, 3])
def test_encoder_equals_timms_vision_transformer_with_copied_weights(num_registers):
    ours = build(num_registers=num_registers)
    image = torch.randn(3, 1, 12, 12)
    cut = image.reshape(3, 4, 3, 4, 3).permute(0, 1, 3, 2, 4).reshape(3, 16, 9)
    theirs = timm_twin(ours)(image)
    torch.testing.assert_close(torch.cat(ours.latents(cut), dim=1), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(cut), theirs[:, num_registers:], rtol=1e-4, atol=1e-5)


# Positions


def test_position_codes_tell_every_cell_apart():
    code = position_code((6, 5), 32)
    assert torch.cdist(code, code).fill_diagonal_(1).min() > 0.1
    assert torch.equal(position_code((30,), 32)[0, :16], torch.zeros(16))


def test_a_two_dimensional_code_is_the_code_of_the_row_beside_that_of_the_column():
    code = position_code((3, 5), 16).reshape(3, 5, 16)
    assert torch.equal(code[:, 2, :8], position_code((3,), 8)) and torch.equal(code[1, :, 8:], position_code((5,), 8))


# Hidden tokens


@pytest.mark.parametrize("num_registers", [0, 2])
def test_hidden_tokens_reach_neither_context_nor_registers(num_registers):
    encoder, hidden = build(num_registers=num_registers), torch.ones(2, 16, dtype=torch.bool).scatter(1, IDX, False)
    changed = torch.where(hidden[..., None], patches() + 100, patches())
    for ours, theirs in zip(encoder.latents(patches(), IDX), encoder.latents(changed, IDX)):
        torch.testing.assert_close(ours, theirs)


def test_hidden_tokens_are_left_out_before_the_embedding():
    encoder, rows = build(), []
    encoder.tokens.embed.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[:-1]))
    encoder(patches(), IDX)
    assert rows == [(2, 4)]


def test_blocks_encoded_alone_keep_their_order():
    encoder, idx_BMK = build(depth=1), torch.stack([IDX, IDX.flip(0)], dim=1)
    got = encode_blocks(encoder, patches(), idx_BMK)
    for m in range(2):
        torch.testing.assert_close(got[:, m], encoder(patches(), idx_BMK[:, m]))


def test_encoding_in_parts_gives_the_bits_of_one_pass():
    encoder = build((16, 16), depth=1)
    x = torch.randn(16, 256, PATCH_DIM)
    parts = []
    encoder.register_forward_hook(lambda module, inputs, output: parts.append(len(output)))
    assert torch.equal(encode_all(encoder, x), encoder(x)) and parts == [8, 8, 16]


# Registers


@pytest.mark.parametrize("idx", [None, IDX], ids=["whole grid", "context"])
def test_registers_are_returned_by_latents_and_left_out_by_forward(idx):
    encoder = build(num_registers=3)
    registers, tokens = encoder.latents(patches(), idx)
    assert registers.shape == (2, 3, WIDTH) and tokens.shape == (2, 16 if idx is None else 4, WIDTH)
    assert torch.equal(encoder(patches(), idx), tokens)


def test_registers_attend_with_all_tokens_both_ways():
    encoder = build(num_registers=1)
    registers, tokens = encoder.latents(patches())
    for token in range(16):
        changed = patches()
        changed[:, token] += 3
        read = encoder.latents(changed)[0]
        assert not torch.allclose(read, registers), "the register reads every token"
    with torch.no_grad():
        encoder.registers_RD += torch.randn(1, WIDTH)
    assert not torch.isclose(encoder(patches()), tokens).all(dim=-1).any(), "every token reads the register"


def test_registers_change_no_other_weight_and_no_registers_are_no_parameter():
    """The same seed draws the same encoder with and without; checkpoints without registers have no key for them."""
    without, with_registers = build().state_dict(), build(num_registers=2).state_dict()
    assert set(with_registers) - set(without) == {"registers_RD"}
    assert all(torch.equal(with_registers[name], without[name]) for name in without)
    assert 0.005 < build(num_registers=64).registers_RD.std() < 0.03
    registers, tokens = build().latents(patches())
    assert registers.shape == (2, 0, WIDTH) and torch.equal(tokens, build()(patches()))


def test_registers_are_trained_and_do_not_decay():
    encoder = build(num_registers=2)
    encoder(patches(), IDX).square().mean().backward()
    assert encoder.registers_RD.grad.abs().min() > 0
    assert encoder.no_weight_decay() == {"registers_RD"} and build().no_weight_decay() == set()


# Other tokens, other copies


class Columns(nn.Module):
    """A vector per column of a table, scaled by the column's value."""

    def __init__(self, num_columns):
        super().__init__()
        self.vectors_ND = nn.Parameter(torch.randn(num_columns, WIDTH))

    def forward(self, rows_BN, idx_BC=None):
        tokens_BND = rows_BN[..., None] * self.vectors_ND
        return tokens_BND if idx_BC is None else tokens_BND.take_along_dim(idx_BC[..., None], 1)


def test_tokens_of_another_kind_go_in_front_of_the_same_trunk():
    torch.manual_seed(0)
    columns, trunk = Columns(16), Trunk(WIDTH, 2, 2)
    encoder, rows = TokenEncoder(columns, trunk, WIDTH, num_registers=1), torch.randn(2, 16)
    registers, tokens = encoder.latents(rows, IDX)
    seen = torch.cat([encoder.registers_RD.expand(2, 1, WIDTH), columns(rows, IDX)], dim=1)
    torch.testing.assert_close(torch.cat([registers, tokens], dim=1), trunk(seen))
    tokens.square().mean().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_a_deep_copy_is_equal_and_independent():
    """The target encoder is one."""
    encoder = build(num_registers=1)
    twin, before = copy.deepcopy(encoder), encoder(patches()).detach()
    assert torch.equal(twin(patches()), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert torch.equal(encoder(patches()), before)


# Size, precision, bad input


def test_at_paper_size_with_registers_no_tensor_strays():
    """ViT-H/14 at 224 pixels on the meta device, backward included."""
    with torch.device("meta"):
        encoder = Encoder((16, 16), 588, 1280, 32, 16, num_registers=4)
        images, idx = torch.zeros(2, 256, 588), torch.zeros(2, 64, dtype=torch.int64)
    registers, tokens = encoder.latents(images, idx)
    assert registers.shape == (2, 4, 1280) and tokens.shape == (2, 64, 1280)
    (registers.mean() + tokens.mean()).backward()
    assert {p.grad.device.type for p in encoder.parameters()} == {"meta"}


def test_bf16_autocast_stays_within_two_percent():
    encoder, x = build(num_registers=2), patches()
    exact = torch.cat(encoder.latents(x), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.cat(encoder.latents(x), dim=1)
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(num_registers=-1), "must not be negative"),
        (lambda: build((4, 0)), "at least one cell"),
        (lambda: position_code((4, 4), 10), "divisible by 4"),
        (lambda: position_code((4,), 9), "even width"),
        (lambda: position_code((2, 2, 2), 12), "one or two axes"),
        (lambda: build((2, 2))(patches(16)), r"expected patches \[batch, 4, 9\] for grid \(2, 2\)"),
        (lambda: Encoder(GRID, PATCH_DIM, WIDTH, 1, 0), "does not split into 0 heads"),
        (lambda: Encoder(GRID, PATCH_DIM, WIDTH, 1, 3), "does not split into 3 heads"),
    ],
)
def test_bad_input_gets_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("index", [-1, 16])
def test_an_index_outside_of_the_grid_is_refused(index):
    with pytest.raises(RuntimeError, match=f"index {index} is out of bounds"):
        build()(patches(16), torch.tensor([[0, index]] * 2))
