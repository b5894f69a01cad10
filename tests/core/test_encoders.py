"""Registers, views at other grids, and the encoder's other promises: shared weights, right positions, one clear error."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa_lab.encoders import Encoder, position_code

GRID, PATCH_DIM, WIDTH = (4, 4), 9, 16
IDX = torch.tensor([[0, 3, 5, 15], [1, 2, 8, 9]])


def build(grid=GRID, num_registers=0, seed=0, depth=2):
    torch.manual_seed(seed)
    return Encoder(grid, PATCH_DIM, WIDTH, depth, 2, num_registers)


def patches(num_tokens=16, seed=1):
    return torch.randn(2, num_tokens, PATCH_DIM, generator=torch.Generator().manual_seed(seed))


# ---- registers -------------------------------------------------------------------------------------


def test_encoder_with_registers_equals_timms_vision_transformer_with_copied_weights():
    from timm.models.vision_transformer import VisionTransformer

    ours = build(num_registers=3)
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
        reg_tokens=3,
        no_embed_class=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    theirs.blocks.load_state_dict(ours.blocks.state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    theirs.reg_token.data = ours.registers_RD[None].clone()
    theirs.pos_embed.data = ours.position_ND[None].clone()
    theirs.patch_embed.proj.weight.data = ours.embed.weight.reshape(WIDTH, 1, 3, 3).clone()
    theirs.patch_embed.proj.bias.data = ours.embed.bias.clone()
    image = torch.randn(3, 1, 12, 12)
    cut = image.reshape(3, 4, 3, 4, 3).permute(0, 1, 3, 2, 4).reshape(3, 16, 9)
    torch.testing.assert_close(torch.cat(ours.latents(cut), dim=1), theirs.eval()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("idx", [None, IDX], ids=["whole grid", "context"])
def test_registers_are_returned_by_latents_and_left_out_by_forward(idx):
    encoder = build(num_registers=3)
    registers, tokens = encoder.latents(patches(), idx)
    assert registers.shape == (2, 3, WIDTH) and tokens.shape == (2, 16 if idx is None else 4, WIDTH)
    assert torch.equal(encoder(patches(), idx), tokens)


def test_registers_attend_with_all_tokens_both_ways():
    encoder = build(num_registers=1)
    registers, tokens = encoder.latents(patches())
    with torch.no_grad():
        encoder.registers_RD += torch.randn(1, WIDTH)
    assert not torch.isclose(encoder(patches()), tokens).all(dim=-1).any(), "every token read the register"
    for token in range(16):
        changed = patches()
        changed[:, token] += 3
        assert not torch.allclose(build(num_registers=1).latents(changed)[0], registers), (
            "the register read every token"
        )


def test_hidden_tokens_cannot_reach_the_registers():
    encoder, changed = build(num_registers=2), patches()
    changed[0, 1] += 100  # not in IDX[0]
    for ours, theirs in zip(encoder.latents(patches(), IDX), encoder.latents(changed, IDX)):
        torch.testing.assert_close(ours, theirs)


def test_registers_change_no_other_weight_and_no_registers_are_no_parameter():
    """The same seed draws the same encoder with and without; checkpoints without registers have no key for them."""
    without, with_registers = build().state_dict(), build(num_registers=2).state_dict()
    assert set(with_registers) - set(without) == {"registers_RD"}
    assert all(torch.equal(with_registers[name], without[name]) for name in without)
    assert 0.005 < build(num_registers=64).registers_RD.std() < 0.03
    registers, tokens = build().latents(patches())
    assert registers.shape == (2, 0, WIDTH) and torch.equal(tokens, build()(patches()))


def test_registers_are_trained():
    encoder = build(num_registers=2)
    encoder(patches(), IDX).square().mean().backward()
    assert encoder.registers_RD.grad.abs().min() > 0


# ---- other grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (14,)])
def test_a_view_at_the_same_grid_gives_the_same_bits(grid):
    encoder = build(grid, num_registers=1)
    x = patches(torch.Size(grid).numel())
    assert torch.equal(encoder.at_grid(grid)(x), encoder(x)) and torch.equal(
        encoder.at_grid(grid).at_grid(grid)(x), encoder(x)
    )


@pytest.mark.parametrize(("coarse", "fine"), [((4, 5), (12, 15)), ((7,), (21,))])
def test_cells_that_share_a_centre_share_a_position(coarse, fine):
    """Three cells for one: the middle one has the old cell's centre, and so exactly its code; there is no [cls] slot."""
    view = build(coarse).at_grid(fine)
    middle = view.position_ND.reshape(*fine, WIDTH)[(slice(1, None, 3),) * len(fine)]
    torch.testing.assert_close(middle.reshape(-1, WIDTH), position_code(coarse, WIDTH), rtol=0, atol=1e-6)


def test_positions_between_cells_are_those_of_the_interpolated_table():
    """On a smooth grid (slow channels) resampling the whole table of codes, as other code does, says the same."""
    size, width = 16, 64
    table = position_code((size, size), width).T.reshape(1, width, size, size)
    resampled = F.interpolate(table, (8, 8), mode="bicubic", align_corners=False, antialias=False)[0].flatten(1).T
    ours = Encoder((size, size), PATCH_DIM, width, 0, 2).at_grid((8, 8)).position_ND
    inside = torch.arange(64).reshape(8, 8)[1:-1, 1:-1].flatten()
    slow = [axis * 32 + half * 16 + channel for axis in (0, 1) for half in (0, 1) for channel in range(3, 16)]
    torch.testing.assert_close(ours[inside][:, slow], resampled[inside][:, slow], rtol=0, atol=0.01)
    off_by_one = F.interpolate(table.flatten(2).roll(1, 2).reshape_as(table), (8, 8), mode="bicubic")[0].flatten(1).T
    assert (ours[inside][:, slow] - off_by_one[inside][:, slow]).abs().max() > 0.1, "a [cls] slot would show"


@pytest.mark.parametrize(("grid", "other"), [((4, 4), (2, 6)), ((12,), (5,))])
def test_training_through_a_view_trains_the_shared_weights(grid, other):
    encoder = build(grid, num_registers=1)
    view = encoder.at_grid(other)
    assert [id(p) for p in view.parameters()] == [id(p) for p in encoder.parameters()]
    before = encoder(patches(torch.Size(grid).numel())).detach()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    view(patches(torch.Size(other).numel())).square()[..., 0].mean().backward()
    optimizer.step()
    again = encoder.at_grid(other)
    assert not torch.allclose(encoder(patches(torch.Size(grid).numel())), before, atol=1e-3)
    assert torch.equal(view(patches(torch.Size(other).numel())), again(patches(torch.Size(other).numel())))
    assert encoder.grid == grid and view.grid == other, "the encoder itself stays at its grid"


def test_views_follow_loaded_weights_and_keep_no_positions_in_checkpoints():
    encoder, other = build(), build(seed=5)
    view = encoder.at_grid((2, 2))
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(view(patches(4)), other.at_grid((2, 2))(patches(4)))
    assert view.state_dict().keys() == encoder.state_dict().keys()


def test_a_view_of_a_view_is_a_view_of_the_first_encoder():
    encoder = build()
    assert torch.equal(encoder.at_grid((3, 5)).at_grid((8, 2)).position_ND, encoder.at_grid((8, 2)).position_ND)


@pytest.mark.parametrize("grid", [(4, 4), (2, 6)])
def test_a_deep_copy_is_equal_and_independent(grid):
    """The target encoder is one, of an encoder or of a view."""
    view = build(num_registers=1).at_grid(grid)
    x = patches(view.position_ND.shape[0])
    twin, before = copy.deepcopy(view), view(x).detach()
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert torch.equal(view(x), before)


# ---- size, precision, bad input -------------------------------------------------------


def test_at_paper_size_with_registers_and_a_view_no_tensor_strays():
    """ViT-H/14 at 224 and at 448 pixels on the meta device, backward included."""
    with torch.device("meta"):
        encoder = Encoder((16, 16), 588, 1280, 32, 16, num_registers=4)
        small, large, idx = torch.zeros(2, 256, 588), torch.zeros(2, 1024, 588), torch.zeros(2, 64, dtype=torch.int64)
    registers, tokens = encoder.latents(small, idx)
    assert registers.shape == (2, 4, 1280) and tokens.shape == (2, 64, 1280)
    view = encoder.at_grid((32, 32))
    assert view(large).shape == (2, 1024, 1280) and view.position_ND.device.type == "meta"
    (registers.mean() + tokens.mean() + view(large, idx).mean()).backward()
    assert encoder.registers_RD.grad.shape == (4, 1280) and encoder.registers_RD.grad.device.type == "meta"


def test_bf16_autocast_stays_within_two_percent():
    encoder, x = build(num_registers=2), patches()
    exact = torch.cat(encoder.latents(x), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.cat(encoder.latents(x), dim=1)
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build(num_registers=-1), "must not be negative"),
        (lambda: build((4, 0)), "at least one cell"),
        (lambda: build().at_grid((16,)), "differ in their number of axes"),
        (lambda: build().at_grid((2, 2))(patches(16)), r"expected patches \[batch, 4, 9\] for grid \(2, 2\)"),
        (lambda: Encoder(GRID, PATCH_DIM, WIDTH, 1, 0), "does not split into 0 heads"),
    ],
)
def test_bad_input_gets_one_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("index", [-1, 16])
def test_an_index_outside_of_the_grid_is_refused(index):
    with pytest.raises(RuntimeError, match=f"index {index} is out of bounds"):
        build()(patches(16), torch.tensor([[0, index]] * 2))
