"""Features of a frozen encoder: the mean over tokens, in any batches, and the same partial views at every call."""

from functools import partial

import torch

from jepa_lab import masks
from jepa_lab.encoders import Encoder
from jepa_lab.probes.features import embed, visible_views

PATCHES = torch.randint(0, 256, (11, 16, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAMPLER = partial(masks.random_tokens, (4, 4), num_targets=1, target_size=4, num_context=6)


def to_batch(pixels):
    return pixels.float() / 255


def build():
    torch.manual_seed(0)
    return Encoder((4, 4), 9, 16, 1, 2)


def test_features_are_the_mean_over_tokens_whatever_the_batches():
    encoder = build()
    wanted = encoder(to_batch(PATCHES)).mean(dim=1)
    for batch_size in (4, 11, 1000):
        features = embed(encoder, PATCHES, to_batch, batch_size)
        torch.testing.assert_close(features, wanted)
        assert not features.requires_grad


def test_views_of_a_sample_see_different_tokens_of_that_sample_alone():
    encoder = build()
    views = visible_views(encoder, PATCHES, to_batch, SAMPLER, num_samples=5, num_views=3)
    assert views.shape == (5, 3, 16)
    assert not torch.allclose(views[:, 0], views[:, 1], atol=1e-4)
    changed = PATCHES.clone()
    changed[2] = 255 - changed[2]
    moved = visible_views(encoder, changed, to_batch, SAMPLER, num_samples=5, num_views=3) != views
    assert moved.any(dim=-1).sum(dim=1).tolist() == [0, 0, 3, 0, 0]


def test_views_are_the_same_at_every_call_and_leave_global_randomness_alone():
    encoder = build()
    before = torch.random.get_rng_state()
    first, again = (visible_views(encoder, PATCHES, to_batch, SAMPLER) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.random.get_rng_state(), before)
