"""Chapter 01: the arms differ from I-JEPA in what they are named for, and the collapse switch collapses."""

from dataclasses import replace

import pytest
import torch
from images_case import blank, digits

from jepa_lab import diagnostics, experiment, image_world
from jepa_lab.data import images
from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import paper as predictors

CFG = masking.preset("smoke")


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def arms(data):
    return masking.arms(CFG, data)


def test_masks_of_the_arms_hide_as_much(arms):
    drawn = {name: arm.task.draw(torch.arange(16), torch.Generator().manual_seed(0)) for name, arm in arms.items()}
    blocks = drawn["I-JEPA"]
    assert drawn["random tokens"].target_idx.shape == blocks.target_idx.shape
    assert drawn["random tokens"].context_idx.shape == blocks.context_idx.shape
    assert drawn["one large block"].context_idx.shape == blocks.context_idx.shape
    assert drawn["one large block"].target_idx.shape == (16, 1, 8)
    union = torch.zeros(16, 16).scatter(1, blocks.target_idx.flatten(1), 1.0).sum(1).mean()
    assert 4 < union < 12
    by_count = [drawn.get(masking.block_count(num_targets), blocks) for num_targets in (1, 2, 3, 4)]
    assert [masks.target_idx.shape[1] for masks in by_count] == [1, 2, 3, 4]
    kept = [masks.context_idx.shape[1] for masks in by_count]
    assert kept == sorted(kept, reverse=True)


def test_the_collapse_switch_collapses_and_the_alarm_says_so(data):
    cfg = replace(CFG, num_steps=100, collapse_steps=100, log_every=100)
    for name, collapses in (("I-JEPA", False), ("no EMA, no stop-gradient", True)):
        history = experiment.train_arm(cfg, masking.arms(cfg, data)[name], 0, progress=False).history
        assert (diagnostics.last_alarm(history) is not None) == collapses, name


def test_scores_of_controls_and_of_an_encoder(data):
    for name, feature_fn in image_world.controls(CFG, data, 0).items():
        scores = image_world.score(data, feature_fn, 0)
        assert set(scores) == {"linear", "knn", "few_label"}
        assert all(0.1 < score.value <= 1 for score in scores.values()), name
        assert image_world.few_label(data, feature_fn, 0) == scores["few_label"]  # the same draws of labels
    pooled = image_world.controls(CFG, data, 0, pool=7)["raw pixels"](data.test[:3])
    torch.testing.assert_close(pooled, data.to_batch(data.test[:3]).mean(dim=2))


def test_pixel_targets_are_the_hidden_pixels(data, arms):
    arm = arms["pixel targets"]
    model, masks = experiment.fresh_model(CFG, arm, 0), arm.task.draw(torch.arange(4), torch.Generator().manual_seed(0))
    batch = arm.task.load(torch.arange(4), masks)
    with torch.no_grad():
        model.predictor.out.weight.zero_()
        model.predictor.out.bias.zero_()
        loss = arm.objective(model, batch, masks)
    hidden = torch.stack([batch[b, masks.target_idx[b].flatten()] for b in range(4)])
    torch.testing.assert_close(loss, torch.nn.functional.smooth_l1_loss(torch.zeros_like(hidden), hidden))


def test_the_paper_preset_is_vit_h_14_with_the_papers_masks():
    cfg = masking.preset("paper")
    assert (cfg.width, cfg.depth, cfg.heads) == (1280, 32, 16)
    sampler = masking.arms(cfg, blank(cfg))["I-JEPA"].task.sampler
    areas = {height * width for height, width in sampler.keywords["target_shapes"]}
    assert len(areas) == 1 and 0.15 <= areas.pop() / 256 <= 0.2


SMALL = {
    "side": 28,
    "patch": 7,
    "width": 32,
    "depth": 1,
    "heads": 2,
    "predictor_width": 16,
    "predictor_depth": 1,
    "num_steps": 2,
    "batch_size": 8,
    "target_scale": (0.15, 0.25),
    "num_targets": 2,
}
both_papers = pytest.mark.parametrize("paper", [masking, predictors], ids=["01", "02"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in ImageNet's layout: 90 to train on and to probe with, 20 to score on."""
    root = tmp_path_factory.mktemp("imagenet")
    for part, count in (("train", 90), ("val", 20)):
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randint(0, 256, (count, 28, 28, 3), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 2
        made = images.ImageSet(pixels, labels, part, "made here", "", "generated", ("a", "b"))
        images.write_image_folder(made, root / part)
    return root


@both_papers
def test_without_a_folder_of_images_the_paper_preset_says_what_it_needs(tmp_path, paper):
    with pytest.raises(ValueError, match="give -p folder=/data/imagenet, which holds train/ and val/"):
        paper.train_reference(paper.preset("paper", **SMALL), tmp_path)
    with pytest.raises(ValueError, match="there is no folder /nowhere/train"):
        paper.train_reference(paper.preset("paper", folder="/nowhere", **SMALL), tmp_path)


@both_papers
def test_the_paper_preset_trains_on_a_folder_of_images(tmp_path, folder, paper):
    cfg = paper.preset("paper", folder=str(folder), **SMALL)
    data = image_world.load(cfg)
    assert [part.shape for part in (data.patches, data.probe, data.test)] == [(n, 16, 147) for n in (60, 30, 20)]
    first = int(torch.randperm(20, generator=torch.Generator().manual_seed(0))[0])
    image, label = images.image_folder(folder / "val", 28)[first]
    assert torch.equal(data.test[0, 0].reshape(7, 7, 3), image[:7, :7]) and data.test_labels[0] == label
    scores = paper.train_reference(cfg, tmp_path, progress=False)
    assert set(scores) == {"linear", "knn", "few_label"}
    with pytest.raises(ValueError, match="checkpoint.pt exists: go on with --resume"):
        paper.train_reference(cfg, tmp_path, progress=False)


def test_classes_to_score_on_go_by_the_names_of_the_training_images(tmp_path, folder):
    cfg = masking.preset("paper", folder=str(tmp_path), **SMALL)
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "0001-b").symlink_to(folder / "val" / "0001-b")
    assert set(image_world.load(cfg).test_labels.tolist()) == {1}
    (tmp_path / "val" / "c").symlink_to(folder / "val" / "0000-a")
    with pytest.raises(images.DataError, match="val holds the classes c, which the training images lack"):
        image_world.load(cfg)


def test_images_to_score_on_that_are_trained_on_are_told(tmp_path, folder, capsys):
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(folder / "train")
    image_world.load(masking.preset("paper", folder=str(tmp_path), **SMALL))
    assert "WARNING: 90 of the 90 images to score on are also among those to train on" in capsys.readouterr().err


def test_parts_with_different_classes_are_refused():
    train, test = images.digits("train"), images.digits("test")
    renamed = replace(test, classes=tuple("abcdefghij"))
    with pytest.raises(images.DataError, match="have different classes: digits .* .test."):
        image_world.cut("centred", (train, train, renamed), 7, "cpu")
