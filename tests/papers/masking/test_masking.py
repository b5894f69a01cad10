"""Chapter 01: every arm trains, differs from I-JEPA in what it says, and the collapse switch collapses."""

from dataclasses import replace

import pytest
import torch

from jepa_lab import diagnostics, train
from jepa_lab import image_world as worlds
from jepa_lab.data import images
from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import paper as predictors

CFG = masking.preset("smoke")


@pytest.fixture(scope="module")
def world():
    """A small world of scikit-learn's digits: no download."""
    everything, test = images.digits("train"), images.digits("test")
    unlabelled, probe = images.split(everything, (1200, 300), seed=0)
    return worlds.cut("centred", (unlabelled, probe, test), CFG.patch, "cpu")


def test_every_arm_takes_a_step_and_shares_its_start(world):
    starts, ends, cfg = [], [], replace(CFG, num_steps=3, collapse_steps=3)
    for name, arm in masking.arms(cfg, world).items():
        fresh = worlds.model(CFG, world.grid, world.patches.shape[-1], 0, arm.predictor).encoder.embed.weight
        starts.append(fresh.detach().clone())
        run = worlds.train_arm(cfg, world, arm, 0, progress=False)
        assert run.step == 3 and run.bad_steps == 0, name
        ends.append(run.model.encoder.embed.weight.detach())
    assert all(torch.equal(s, starts[0]) for s in starts)
    assert len({tuple(e.flatten().tolist()) for e in ends}) == len(ends)


def test_masks_of_the_arms_hide_as_much(world):
    drawn = {name: arm.sampler(16, torch.Generator().manual_seed(0)) for name, arm in masking.arms(CFG, world).items()}
    base = drawn["I-JEPA"]
    assert drawn["random tokens"].target_idx.shape == base.target_idx.shape
    assert drawn["random tokens"].context_idx.shape == base.context_idx.shape
    assert drawn["one large block"].context_idx.shape == base.context_idx.shape
    assert drawn["one large block"].target_idx.shape == (16, 1, 8)
    union = torch.zeros(16, 16).scatter(1, base.target_idx.flatten(1), 1.0).sum(1).mean()
    assert 4 < union < 12
    counted = {m: drawn.get(masking.block_count(m), base) for m in (1, 2, 3, 4)}
    assert [arm.target_idx.shape[1] for arm in counted.values()] == [1, 2, 3, 4]
    kept = [arm.context_idx.shape[1] for arm in counted.values()]
    assert kept == sorted(kept, reverse=True)


def test_the_collapse_switch_collapses_and_the_alarm_says_so(world):
    both, cfg = {}, replace(CFG, num_steps=120, collapse_steps=120, log_every=30)
    for name in ("I-JEPA", "no EMA, no stop-gradient"):
        run = worlds.train_arm(cfg, world, masking.arms(cfg, world)[name], 0, progress=False)
        both[name] = diagnostics.collapsed({k: v[-1] for k, v in run.history.items()})
    assert both["no EMA, no stop-gradient"] is not None and both["I-JEPA"] is None


def test_training_of_a_run_can_be_cut_and_resumed(world, tmp_path):
    cfg, path = replace(CFG, num_steps=6), tmp_path / "checkpoint.pt"
    arm = masking.arms(cfg, world)["I-JEPA"]
    whole = worlds.train_arm(cfg, world, arm, 0, progress=False)
    worlds.train_arm(cfg, world, arm, 0, progress=False, checkpoint=path, save_every=4)
    again = worlds.train_arm(cfg, world, arm, 0, progress=False, checkpoint=path)
    assert torch.equal(whole.model.encoder.embed.weight, again.model.encoder.embed.weight)


def test_scores_of_controls_and_encoder(world):
    for name, embed in worlds.controls(CFG, world, 0).items():
        scores = worlds.score(world, embed, 0)
        assert set(scores) == {"linear", "knn", "few_label"} and all(0.1 < s.value <= 1 for s in scores.values()), name


def test_pixel_targets_are_the_hidden_pixels(world):
    arm = masking.arms(CFG, world)["pixel targets"]
    model = worlds.model(CFG, world.grid, world.patches.shape[-1], 0, arm.predictor)
    batch = world.to_batch(world.patches[:4])
    drawn = arm.sampler(4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.predictor.out.weight.zero_(), model.predictor.out.bias.zero_()
        loss = masking.pixel_objective(model, batch, drawn)
    hidden = torch.stack([batch[b, drawn.target_idx[b].flatten()] for b in range(4)])
    torch.testing.assert_close(loss, torch.nn.functional.smooth_l1_loss(torch.zeros_like(hidden), hidden))


def test_presets_refuse_unknown_names():
    with pytest.raises(ValueError, match="unknown preset"):
        masking.preset("huge")
    with pytest.raises(ValueError, match="num_stepz.*the fields are: .*num_steps"):
        masking.preset("smoke", num_stepz=3)


def test_the_paper_preset_is_vit_h_14_with_the_papers_masks():
    cfg = masking.preset("paper")
    sampler = worlds.multi_block(cfg, (16, 16), cfg.num_targets)
    areas = {h * w for h, w in sampler.keywords["target_shapes"]}
    assert len(areas) == 1 and 0.15 <= areas.pop() / 256 <= 0.2
    assert isinstance(cfg, train.Config) and (cfg.width, cfg.depth, cfg.heads) == (1280, 32, 16)


@pytest.mark.parametrize("paper", [masking, predictors])
def test_the_paper_preset_trains_on_a_folder_of_images_and_says_so_when_it_has_none(tmp_path, paper):
    small = dict(
        side=28,
        patch=7,
        width=32,
        depth=1,
        heads=2,
        predictor_width=16,
        predictor_depth=1,
        num_steps=2,
        batch_size=8,
        target_scale=(0.15, 0.25),
        num_targets=2,
    )
    with pytest.raises(ValueError, match="give -p folder=/data/imagenet, which holds train/ and val/"):
        paper.headless(paper.preset("paper", **small), tmp_path)
    with pytest.raises(ValueError, match="nowhere/train holds no class folders"):
        paper.headless(paper.preset("paper", folder="/nowhere", **small), tmp_path)
    for part, count in (("train", 90), ("val", 20)):
        pixels = torch.randint(
            0, 256, (count, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
        )
        images.write_image_folder(
            images.ImageSet(pixels, torch.arange(count) % 2, part, "made here", "", "generated", ("a", "b")),
            tmp_path / part,
        )
    cfg = paper.preset("paper", folder=str(tmp_path), **small)
    world = worlds.pictures(cfg, cfg.folder, cfg.side)
    assert (
        world.patches.shape == (60, 16, 147)
        and world.probe.shape == (30, 16, 147)
        and world.test.shape == (20, 16, 147)
    )
    first = images.image_folder(tmp_path / "val", 28)[
        int(torch.randperm(20, generator=torch.Generator().manual_seed(0))[0])
    ]
    assert torch.equal(world.test[0, 0].reshape(7, 7, 3), first[0][:7, :7]) and world.test_labels[0] == first[1]
    assert set(paper.headless(cfg, tmp_path / "out", progress=False)) == {"linear", "knn", "few_label"}
