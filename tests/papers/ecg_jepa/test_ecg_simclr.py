"""SimCLR in chapter 07: its views, its augmentations, its loss, and that all of its randomness is the run's."""

from dataclasses import replace

import pytest
import torch

from jepa_lab import distributed, experiment, losses
from jepa_lab.papers.ecg_jepa import models, paper


def views(batch_size: int, seed: int = 0, **how) -> models.Views:
    how = {"patch": 25, "share": 0.5, "spread": (0.2, 0.1), **how}
    return models.two_views((40,), batch_size, torch.Generator().manual_seed(seed), **how)


def test_views_are_two_stretches_that_reach_both_ends():
    drawn = views(500)
    assert drawn.context_idx.shape == (500, 20)
    assert drawn.target_idx.shape == (500, 1, 20)
    for idx in (drawn.context_idx, drawn.target_idx[:, 0]):
        assert (int(idx.min()), int(idx.max())) == (0, 39)
        assert bool((idx.diff(dim=1) == 1).all())
    assert not torch.equal(drawn.context_idx, drawn.target_idx[:, 0])


def test_gains_and_noise_have_the_asked_spread_and_differ_between_views():
    drawn = views(200, spread=(0.5, 0.3))
    assert float(drawn.gain_BVL.log().std()) == pytest.approx(0.5, rel=0.1)
    assert float(drawn.noise_BVNP.std()) == pytest.approx(0.3, rel=0.01)
    assert not torch.equal(drawn.gain_BVL[:, 0], drawn.gain_BVL[:, 1])
    assert not torch.equal(drawn.noise_BVNP[:, 0], drawn.noise_BVNP[:, 1])


def test_an_augmented_record_is_gain_times_lead_plus_noise(data):
    patches, drawn = data.to_batch(data.train.signals[:8]), views(8)
    seen = models.augmented(patches, drawn.gain_BVL[:, 1], drawn.noise_BVNP[:, 1]).reshape(8, 40, 12, 25)
    lead = patches.reshape(8, 40, 12, 25)[2, :, 3]
    noise = drawn.noise_BVNP[2, 1].reshape(40, 12, 25)[:, 3]
    torch.testing.assert_close(seen[2, :, 3], drawn.gain_BVL[2, 1, 3] * lead + noise)


def test_two_views_of_one_record_are_pulled_together(cfg, data):
    model = experiment.fresh_model(cfg, paper.arms(cfg, data)["SimCLR"], 0)
    patches = data.to_batch(data.train.signals[:8])
    crop = views(1).context_idx.expand(8, -1)
    same = replace(views(8, spread=(0.0, 0.0)), context_idx=crop, target_idx=crop[:, None])
    with torch.no_grad():
        distinct = float(models.simclr_objective(model, patches, same, 0.1))
        one_record = float(models.simclr_objective(model, patches[:1].expand_as(patches), same, 0.1))
        pooled = model.predictor(model.encoder(patches, crop).mean(dim=1))
        mismatched = float(losses.info_nce(pooled, pooled.roll(1, dims=0)))
    assert one_record == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-3)  # pure chance
    assert distinct < one_record
    assert distinct < mismatched


def test_the_loss_draws_nothing_itself(cfg, data):
    model = experiment.fresh_model(cfg, paper.arms(cfg, data)["SimCLR"], 0)
    patches, before = data.to_batch(data.train.signals[:8]), torch.get_rng_state()
    with torch.no_grad():
        first, again = (models.simclr_objective(model, patches, views(8), 0.1) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_part_of_the_views_is_cut_into_the_shares_of_the_processes():
    drawn = views(8)
    parts = [part for _, part in distributed.share(torch.arange(8), drawn, micro_batches=4)]
    for name in ("context_idx", "target_idx", "gain_BVL", "noise_BVNP"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(drawn, name)), name


def test_augmentations_come_from_the_runs_generator_and_survive_a_resume(cfg, data, tmp_path):
    cfg, path = replace(cfg, num_steps=4), tmp_path / "checkpoint.pt"
    arm = paper.arms(cfg, data)["SimCLR"]
    ends = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        ends.append(experiment.train_arm(cfg, arm, 0, progress=False).model)
    stop = {2: interrupt}
    with pytest.raises(KeyboardInterrupt):
        experiment.train_arm(cfg, arm, 0, progress=False, checkpoint=path, save_every=2, at=stop)
    ends.append(experiment.train_arm(cfg, arm, 0, progress=False, checkpoint=path).model)
    first = [p.detach() for p in ends[0].parameters()]
    for other in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(first, other.parameters()))


def interrupt(state) -> None:
    raise KeyboardInterrupt
