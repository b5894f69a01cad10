"""The records of chapter 07: cut by patient, of the source that the config names, with nested sets of known labels."""

from dataclasses import replace

import pytest
import torch

from jepa_lab import records
from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator
from jepa_lab.papers.ecg_jepa import multilabel, paper, world


def test_presets_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown preset"):
        paper.preset("huge")
    with pytest.raises(ValueError, match="do not tile"):
        paper.preset("laptop", patch=33)
    with pytest.raises(ValueError, match="keep is the share"):
        paper.preset("laptop", keep=1.5)


def test_no_patient_is_in_two_parts_and_statistics_come_from_training_records_alone(data):
    patients = [set(part.patients.tolist()) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 480
    for stat, expected in zip(data.stats, ecg.lead_stats(data.train.signals)):
        assert torch.equal(stat, expected)
    tokens = data.to_batch(data.train.signals)
    assert tokens.shape == (240, 40, 300)
    assert abs(float(tokens.mean())) < 0.05
    assert 0.8 < float(tokens.std()) < 1.1


def test_ptb_xl_is_used_where_it_is_by_its_folds(cfg, monkeypatch, tmp_path):
    records = simulator.simulate(400, seed=1, prevalence=0.2)
    records = replace(records, folds=torch.arange(400) % 10 + 1, patients=torch.arange(400), kind="real")
    asked = {}

    def ptb_xl(root=None, **how):
        asked.update(how)
        return records

    monkeypatch.setattr(ecg, "ptb_xl_folder", lambda root=None: tmp_path)
    monkeypatch.setattr(ecg, "ptb_xl", ptb_xl)
    assert paper.preset("laptop").data == "ptb-xl"
    assert paper.preset("laptop", data="simulated").data == "simulated"
    data = world.load(replace(cfg, data="ptb-xl", num_train=250, num_validation=100, num_test=30))
    assert asked == {"rate": 100, "task": "superclass"}
    assert [len(part) for part in (data.train, data.validation, data.test)] == [250, 40, 30]
    assert set(data.train.folds.tolist()) <= set(range(1, 9))
    assert set(data.validation.folds.tolist()) == {9}
    assert set(data.test.folds.tolist()) == {10}


def test_simulated_and_real_runs_leave_records_of_different_names(monkeypatch, tmp_path):
    paths = set()
    for folder in (None, tmp_path):
        monkeypatch.setattr(ecg, "ptb_xl_folder", lambda root=None, folder=folder: folder)
        paths.add(records.record_path(tmp_path, paper.CHAPTER, "laptop", 0, paper.preset("laptop")))
    assert len(paths) == 2


def test_known_labels_are_nested_and_depend_on_the_seed_alone(cfg, data):
    known = world.labelled(cfg, data, 3)
    assert {share: len(idx) for share, idx in known.items()} == {0.01: 18, 0.05: 18, 0.1: 24, 1.0: 240}
    assert torch.equal(known[1.0][:24], known[0.1])
    assert torch.equal(world.labelled(cfg, data, 3)[1.0], known[1.0])
    assert not torch.equal(world.labelled(cfg, data, 4)[1.0], known[1.0])


def test_the_smallest_share_of_two_labels_is_enough_for_the_probe(cfg, data):
    labels = data.train.labels[:, :1]
    both = replace(data.train, labels=torch.cat([labels, ~labels], 1), label_names=("AF", "normal"))
    idx = world.labelled(cfg, replace(data, train=both), 0)[0.01]
    assert len(idx) == multilabel.FEWEST_RECORDS
    assert multilabel.fit_labels(torch.randn(len(idx), 4), both.labels[idx]).weight.shape == (4, 2)


def test_labels_that_a_part_of_ptb_xl_cannot_score_are_left_out_before_anything_trains(cfg, monkeypatch):
    records = simulator.simulate(100, seed=1, prevalence=0.3)
    folds = torch.arange(100) % 10 + 1
    labels = records.labels.clone()
    labels[folds == 9, 0] = False
    ptb = replace(records, folds=folds, patients=torch.arange(100), kind="real", labels=labels)
    monkeypatch.setattr(ecg, "ptb_xl", lambda **how: ptb)
    found = world.load(replace(cfg, data="ptb-xl"))
    assert records.label_names[0] not in found.test.label_names
    assert found.train.refused["label too rare to score"] >= 1
    for part in (found.train, found.validation, found.test):
        assert multilabel.macro_auc(torch.randn(part.labels.shape), part.labels) >= 0
