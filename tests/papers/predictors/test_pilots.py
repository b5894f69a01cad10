"""Pilots choose settings without a look at the test images."""

from dataclasses import replace

from jepa_lab import image_world
from jepa_lab.data import images
from jepa_lab.papers.predictors import paper, pilots


def test_pilots_score_on_training_images_that_they_do_not_train_on(monkeypatch):
    splits = {"train": images.digits("train"), "test": images.digits("test")}
    monkeypatch.setattr(images, "fashion_mnist", splits.get)
    monkeypatch.setattr(pilots, "HELD_OUT", 200)
    cfg = paper.preset("smoke")
    data, chapter = pilots.validation_data(cfg), image_world.centred(cfg)
    test_images = {row.numpy().tobytes() for row in chapter.test} - {row.numpy().tobytes() for row in chapter.patches}
    assert test_images and not test_images & {row.numpy().tobytes() for row in data.test}
    assert len(data.test) == 200 and len(data.patches) == len(chapter.patches) - 200
    trials = pilots.pilot(data, replace(cfg, num_steps=2, batch_size=8), "SIGReg", [100])
    assert [trial.value for trial in trials] == list(pilots.GRID["SIGReg"][1])
    assert all(0 < trial.ema_copy <= 100 for trial in trials)
