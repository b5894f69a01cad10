"""A set of electrocardiograms: parts that fit each other, splits that cut no patient, leads normalised, patches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.ecg.sets import ECGSet, by_fold, lead_stats, normalise, patchify, split
from jepa_lab.data.sources.archives import DataError


def fake(n=30, samples=50, patients=None, folds=None):
    signals = torch.randn(n, 12, samples, generator=torch.Generator().manual_seed(0)).half()
    return ECGSet(
        signals,
        torch.zeros(n, 2, dtype=torch.bool),
        ("a", "b"),
        100,
        torch.arange(n) if patients is None else patients,
        torch.zeros(n, dtype=torch.int64) if folds is None else folds,
        "fake",
        "here",
        "0" * 64,
        "simulated",
    )


# the record and its helpers


def test_parts_that_do_not_belong_together_are_refused():
    good = fake()
    for change, says in (
        ({"labels": good.labels[:5]}, "don't belong together"),
        ({"label_names": ("a",)}, "2 columns of labels"),
        ({"folds": good.folds[:3]}, "don't belong together"),
        ({"kind": "fake"}, "kind must be"),
    ):
        with pytest.raises(DataError, match=says):
            ECGSet(**{**vars(good), **change})


def test_a_run_of_neighbours_is_a_view_and_other_picks_are_right_too():
    data = fake()
    run, picks = data.subset(torch.arange(4, 9), "run"), data.subset(torch.tensor([7, 2, 2]))
    assert run.signals.data_ptr() == data.signals[4].data_ptr() and run.name == "fake [run]" and len(run) == 5
    assert torch.equal(picks.signals, data.signals[[7, 2, 2]]) and picks.patients.tolist() == [7, 2, 2]


@settings(max_examples=60, deadline=None)
@given(per=st.integers(1, 4), sizes=st.lists(st.integers(4, 12), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_a_split_never_cuts_a_patient_and_is_as_large_as_asked(per, sizes, seed):
    data = fake(48, 2, torch.arange(48) // per)
    parts = split(data, sizes, seed)
    seen = [set(part.patients.tolist()) for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert all(size - per < len(part) <= size for part, size in zip(parts, sizes, strict=True))
    assert all(
        (part.patients == patient).sum() == per for part, people in zip(parts, seen, strict=True) for patient in people
    )
    assert per > 1 or [len(part) for part in parts] == sizes


def test_impossible_splits_and_folds_are_one_clear_error():
    data = fake(10, folds=torch.arange(10) % 3)
    assert by_fold(data, (1, 2)).folds.tolist() == [1, 2, 1, 2, 1, 2]
    for act, says in (
        (lambda: split(data, (8, 3)), "cannot cut"),
        (lambda: split(data, (-1,)), "cannot cut"),
        (lambda: split(fake(4, patients=torch.zeros(4).long()), (2,)), "too small"),
        (lambda: by_fold(data, (9,)), "no records of fold 9"),
    ):
        with pytest.raises(DataError, match=says):
            act()


def test_normalised_leads_have_no_mean_and_unit_spread_and_are_clipped():
    data = fake(400)
    signals = (data.signals * torch.linspace(0.1, 4, 12)[:, None] + torch.linspace(-1, 1, 12)[:, None]).half()
    stats = lead_stats(signals)
    assert torch.allclose(stats[0], signals.double().mean((0, 2)).float(), atol=1e-6)
    assert torch.allclose(stats[1], signals.double().std((0, 2), unbiased=False).float(), rtol=1e-5)
    out = normalise(signals, stats, clip=2.0)
    assert out.dtype == torch.float32 and float(out.abs().max()) == 2.0
    assert float(normalise(signals, stats).mean((0, 2)).abs().max()) < 1e-3
    signals[:, 4] = 1.5
    with pytest.raises(DataError, match="lead aVL has no spread"):
        normalise(signals, lead_stats(signals))


def test_a_patch_holds_all_leads_of_its_time():
    signals = torch.arange(2 * 12 * 20.0).reshape(2, 12, 20)
    tokens = patchify(signals, 5)
    assert tokens.shape == (2, 4, 60) and torch.equal(tokens[1, 2].reshape(12, 5), signals[1, :, 10:15])
    with pytest.raises(DataError, match="don't tile"):
        patchify(signals, 6)
