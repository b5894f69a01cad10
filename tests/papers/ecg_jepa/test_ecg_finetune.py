"""Labelled training in chapter 07: crops, heads, what is frozen, which classifier is kept, what a stage trains."""

from dataclasses import replace

import pytest
import torch

from jepa_lab import train
from jepa_lab.papers.ecg_jepa import finetune, multilabel

EVERYONE = torch.arange(240)


@pytest.fixture
def classifier(cfg, data, model):
    return finetune.classifier(cfg, data, model.target_encoder, 0, attentive=True)


def recipe(**how) -> finetune.Recipe:
    return finetune.Recipe(**{"num_steps": 6, "lr": 1e-2, "checks": 2, "crop": 10, "stride": 5, **how})


def test_crops_lie_inside_the_record_and_reach_both_ends():
    idx = finetune.random_crops(40, 10, 2000, torch.Generator().manual_seed(0))
    assert idx.shape == (2000, 10)
    assert (int(idx.min()), int(idx.max())) == (0, 39)
    assert bool((idx.diff(dim=1) == 1).all())


def test_a_step_reads_its_records_crops_and_labels(data, classifier):
    task = finetune.CropTask(data.train.signals, data.train.labels, data.to_batch, 40, 10)
    rows, drawn = torch.tensor([7, 3]), task.draw(torch.tensor([7, 3]), torch.Generator().manual_seed(0))
    patches, labels = task.load(rows, drawn)
    assert torch.equal(patches, data.to_batch(data.train.signals[rows]))
    assert torch.equal(labels, data.train.labels[rows].float())
    with torch.no_grad():
        logits = classifier(patches, drawn)
        loss = finetune.label_objective(classifier, (patches, labels), drawn)
    expected = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(loss, expected)


def test_a_record_is_scored_by_the_mean_logit_of_seven_crops(data, classifier):
    signals = data.test.signals[:3]
    torch.nn.init.normal_(classifier.head.out.weight)
    with torch.no_grad():
        crops = [classifier(data.to_batch(signals), torch.arange(s, s + 10).expand(3, -1)) for s in range(0, 31, 5)]
    assert len(crops) == 7
    logits = finetune.predict(classifier, signals, data.to_batch, 10, 5)
    torch.testing.assert_close(logits, torch.stack(crops).mean(0))


def test_a_frozen_encoder_stays_and_a_free_one_moves_and_the_given_model_never_changes(data, classifier):
    before = {name: p.clone() for name, p in classifier.state_dict().items()}
    for frozen in (True, False):
        selection = finetune.finetune(classifier, recipe(frozen=frozen), data, EVERYONE, 0)
        after = selection.best.state_dict()
        moved = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
        assert moved == ({"head"} if frozen else {"encoder", "head"})
        assert selection.steps == [3, 6]
    assert all(torch.equal(p, before[name]) for name, p in classifier.state_dict().items())


def test_the_best_validation_score_is_the_one_that_is_kept(data, classifier):
    how = recipe(num_steps=30, checks=6, lr=3.0, frozen=True)
    selection = finetune.finetune(classifier, how, data, EVERYONE, 0)
    logits = finetune.predict(selection.best, data.validation.signals, data.to_batch, 10, 5)
    assert float(multilabel.macro_auc(logits, data.validation.labels)) == pytest.approx(max(selection.aucs))
    assert len(set(selection.aucs)) > 1
    assert selection.aucs[-1] < max(selection.aucs)  # else the last one would do, too


def test_fewer_labels_than_a_batch_are_enough(data, classifier):
    selection = finetune.finetune(classifier, recipe(num_steps=2, checks=1), data, EVERYONE[:5], 0)
    assert selection.recipe.batch_size == 5
    assert selection.steps == [2]


def test_labelled_training_depends_on_its_seed_alone(data, classifier):
    heads = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        heads.append(finetune.finetune(classifier, recipe(checks=1), data, EVERYONE, seed).best.head.out.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_heads_read_what_they_say(cfg):
    latents = torch.randn(4, 11, cfg.width, generator=torch.Generator().manual_seed(0))
    without_tokens = latents.clone()
    without_tokens[:, 1:] = 0
    register, attentive = finetune.RegisterHead(cfg.width, 9), finetune.AttentiveHead(cfg.width, 9, 2)
    torch.nn.init.normal_(attentive.out.weight)
    assert torch.equal(register(latents), register(without_tokens))
    assert not torch.allclose(attentive(latents), attentive(without_tokens))
    torch.testing.assert_close(attentive(latents), attentive(latents.flip(1)))


def test_a_crop_longer_than_the_record_is_refused(data, classifier):
    with pytest.raises(ValueError, match="does not fit in a record of 40"):
        finetune.finetune(classifier, recipe(crop=41), data, EVERYONE, 0)


def test_stages_train_what_they_are_named_for(cfg, data, classifier):
    before = classifier.encoder.state_dict()
    head, result = finetune.learn(cfg, data, classifier, EVERYONE, 0, "head")
    assert all(torch.equal(p, before[name]) for name, p in head.encoder.state_dict().items())
    assert 0.3 < result.validation < 1
    assert 0.3 < result.test.low <= result.test.high < 1
    for stage in ("all", "second"):
        trained, _ = finetune.learn(cfg, data, head, EVERYONE, 0, stage)
        assert not all(torch.equal(p, before[name]) for name, p in trained.encoder.state_dict().items()), stage
    with pytest.raises(ValueError, match="head, all, second"):
        finetune.learn(cfg, data, classifier, EVERYONE, 0, "third")


def test_stages_take_their_steps_and_rates_from_the_config(cfg, data, classifier, monkeypatch):
    asked = {}

    def start(model, recipe, seed, device):
        asked[recipe.num_steps] = recipe.lr
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "start", start)
    cfg = replace(cfg, label_steps=(11, 12, 13), label_lr=(0.1, 0.2, 0.3))
    for stage in finetune.STAGES:
        with pytest.raises(KeyboardInterrupt):
            finetune.learn(cfg, data, classifier, EVERYONE, 0, stage)
    assert asked == {11: 0.1, 12: 0.2, 13: 0.3}


def test_both_starts_of_the_few_label_runs_have_one_head(cfg, data, model):
    first, second = (finetune.classifier(cfg, data, encoder, 5) for encoder in (model.encoder, model.target_encoder))
    assert torch.equal(first.head.out.weight, second.head.out.weight)
    assert isinstance(first.head, finetune.RegisterHead)
