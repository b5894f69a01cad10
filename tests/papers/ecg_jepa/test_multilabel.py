"""Multi-label scores: the AUC is the chance it says and refuses what has none; the probe learns each label alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.probes.linear import L2_GRID


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 1000]))
def test_the_auc_is_scikit_learns_with_and_without_ties(seed, levels):
    scores = torch.randint(levels, (40, 3), generator=generator(seed)).float()
    labels = torch.rand(40, 3, generator=generator(seed + 1)) < 0.4
    labels[0], labels[1] = True, False
    expected = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    assert multilabel.class_auc(scores, labels).tolist() == pytest.approx(expected)
    assert float(multilabel.macro_auc(scores, labels)) == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize("fill, what", [(False, "positives"), (True, "negatives")])
def test_a_label_without_positives_or_negatives_is_refused_by_name(fill, what):
    labels = torch.rand(20, 3, generator=generator()) < 0.5
    labels[:, 1] = fill
    for score in (multilabel.macro_auc, multilabel.auc_score):
        with pytest.raises(ValueError, match=f"no {what} among 20 records for AF"):
            score(torch.rand(20, 3, generator=generator()), labels, names=("PVC", "AF", "LBBB"))


def test_scores_that_are_not_finite_or_empty_are_refused():
    labels = torch.eye(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="NaN"):
        multilabel.macro_auc(torch.full((4, 4), torch.nan), labels)
    with pytest.raises(ValueError, match="one non-empty"):
        multilabel.macro_auc(torch.rand(0, 4), labels[:0])


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says():
    true, covered, rounds = 0.76025, 0, 60  # normal scores one deviation apart
    for seed in range(rounds):
        labels = torch.rand(150, 1, generator=generator(seed)) < 0.5
        scores = torch.randn(150, 1, generator=generator(seed + 1000)) + labels.float()
        score = multilabel.auc_score(scores, labels, generator(seed))
        assert score.low <= score.value <= score.high
        covered += score.low <= true <= score.high
    assert covered >= 0.85 * rounds


def test_rare_labels_leave_a_finite_interval_and_a_warning_that_names_them():
    labels = torch.rand(60, 8, generator=generator(3)) < 0.5
    labels[:, 1:] = False
    labels[torch.arange(1, 8), torch.arange(1, 8)] = (
        True  # seven labels with one positive each: hardly a resample has them all
    )
    with pytest.warns(UserWarning, match=r"\d+ of 200 resamples lack .* of b, c, d"):
        score = multilabel.auc_score(torch.rand(60, 8, generator=generator(4)), labels, generator(), names="abcdefgh")
    assert score.low < score.value < score.high


def test_records_of_one_patient_are_drawn_together():
    labels = (torch.rand(60, 1, generator=generator(1)) < 0.5).repeat_interleave(10, dim=0)
    scores = torch.randn(60, 1, generator=generator(2)).repeat_interleave(10, dim=0) + labels.float()
    by_patient = multilabel.auc_score(scores, labels, generator(), torch.arange(60).repeat_interleave(10))
    by_record = multilabel.auc_score(scores, labels, generator())
    assert by_patient.high - by_patient.low > 2 * (by_record.high - by_record.low)
    assert by_patient.value == by_record.value


def test_the_fit_equals_scikit_learns_at_the_strength_it_chose():
    x = torch.randn(300, 6, generator=generator()) * torch.tensor([1, 2, 3, 4, 5, 6.0]) + 3
    y = torch.stack(
        [
            x[:, 0] + torch.randn(300, generator=generator(1)) > 3,
            x[:, 5] > 6,
            torch.rand(300, generator=generator(2)) < 0.1,
        ],
        dim=1,
    )
    fit = multilabel.fit_labels(x, y, generator())
    assert fit.l2 in L2_GRID
    z = (x - x.mean(0)) / x.std(0, correction=0)
    for label in range(3):
        theirs = LogisticRegression(C=1 / (fit.l2 * 300), tol=1e-8, max_iter=1000).fit(z, y[:, label])
        torch.testing.assert_close(
            fit(x)[:, label], torch.tensor(theirs.decision_function(z)).float(), atol=0.03, rtol=0.01
        )


def test_noise_asks_for_more_regularisation_than_signal():
    x = torch.randn(80, 40, generator=generator())
    noise, signal = torch.rand(80, 2, generator=generator(1)) < 0.5, x[:, :2] > 0
    assert multilabel.fit_labels(x, noise).l2 > multilabel.fit_labels(x, signal).l2


def test_a_constant_feature_and_more_features_than_records_do_no_harm():
    x = torch.cat([torch.randn(30, 50, generator=generator()), torch.full((30, 1), 7.0)], dim=1)
    y = x[:, :2] > 0
    logits = multilabel.fit_labels(x, y)(x)
    assert torch.isfinite(logits).all() and float(multilabel.macro_auc(logits, y)) > 0.9


def test_the_probe_refuses_what_it_cannot_learn():
    x, y = torch.randn(20, 3, generator=generator()), torch.rand(20, 2, generator=generator()) < 0.5
    with pytest.raises(ValueError, match="finite"):
        multilabel.fit_labels(x.masked_fill(x > 1, torch.nan), y)
    with pytest.raises(ValueError, match="no positives"):
        multilabel.fit_labels(x, y & torch.tensor([True, False]))


def test_subsets_are_nested_and_every_label_is_in_the_smallest():
    labels = torch.rand(400, 5, generator=generator()) < torch.tensor([0.5, 0.1, 0.03, 0.01, 0.2])
    small, middle, large = multilabel.few(labels, (20, 100, 400), generator(3))
    assert (len(small), len(middle), len(large)) == (20, 100, 400)
    assert torch.equal(middle[:20], small) and torch.equal(large[:100], middle)
    assert len(large.unique()) == 400 and bool((labels[small].sum(0) >= 2).all())
    again, other = multilabel.few(labels, (20,), generator(3))[0], multilabel.few(labels, (20,), generator(4))[0]
    assert torch.equal(again, small) and not torch.equal(other, small)
    with pytest.raises(ValueError, match="are needed for 2 positives"):
        multilabel.few(labels, (3,), generator())


def test_the_smallest_subset_lacks_every_label_at_least_once():
    labels = torch.ones(100, 2, dtype=torch.bool)
    labels[97:, 0], labels[:50, 1] = False, False
    small = multilabel.few(labels, (multilabel.FEWEST_RECORDS, 100), generator(1))[0]
    assert bool((~labels[small]).any(0).all()) and bool((labels[small].sum(0) >= 2).all())
