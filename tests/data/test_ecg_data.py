"""Whatever lies in a folder of electrocardiograms: the right twelve leads come out, or a counted refusal with its
reason.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import wfdb as wfdb_records
from jepa_lab.data.ecg.records import (
    LEADS,
    ECGSet,
    RecordError,
    by_fold,
    lead_stats,
    normalise,
    patchify,
    ptb_xl,
    read_record,
    split,
    wfdb_folder,
)
from jepa_lab.data.sources.archives import DataError
from jepa_lab.papers.ecg_jepa import paper as ecg_jepa
from jepa_lab.papers.ecg_jepa import world as ecg_world

wfdb = pytest.importorskip("wfdb")
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.drop")  # inside wfdb 4.3.1

UPPER = [lead.upper() for lead in LEADS]  # as PTB-XL writes them


def beats(rate=100, seconds=10.0, seed=0):
    """(T, 12) in mV: smooth, so that it can be resampled, with Einthoven's law."""
    rng, time = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
    waves = [
        sum(rng.normal() * 0.2 * np.sin(2 * np.pi * k * time / 10 + rng.uniform(0, 6)) for k in range(1, 40))
        for _ in range(8)
    ]
    limbs = wfdb_records.limb_leads(*torch.from_numpy(np.stack(waves[:2]))).numpy()
    return np.concatenate([limbs, waves[2:]]).T


def write(folder, name, signal, rate=100, leads=LEADS, units="mV", fmt="16", gain=1000.0):
    """One record as PhysioNet has them: format 16, 1000 units per mV, the baseline at 0."""
    folder.mkdir(parents=True, exist_ok=True)
    n = signal.shape[1]
    wfdb.wrsamp(
        name,
        fs=rate,
        units=[units] * n,
        sig_name=list(leads),
        p_signal=signal,
        fmt=[fmt] * n,
        adc_gain=[gain] * n,
        baseline=[0] * n,
        write_dir=str(folder),
    )
    return folder / name


def write_cinc(folder, name, signal, rate=500, dx="426783006"):
    """One record as the challenges of 2020 and 2021 have them: a MATLAB matrix and a header with comments."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    stored = np.round(signal.T * 1000).astype(np.int16)
    savemat(folder / f"{name}.mat", {"val": stored}, format="4")
    lines = [f"{name} 12 {rate} {stored.shape[1]} 12-May-2020 12:33:59"]
    lines += [f"{name}.mat 16+24 1000/mV 16 0 {stored[k, 0]} 0 0 {lead}" for k, lead in enumerate(LEADS)]
    lines += ["#Age: 74", "#Sex: Male", f"#Dx: {dx}", "#Rx: Unknown", "#Hx: Unknown", "#Sx: Unknown"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
IMI,inferior infarction,1.0,,,MI,IMI
NDT,non-diagnostic T abnormalities,1.0,1.0,,STTC,STTC
PVC,ventricular premature complex,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,atrial fibrillation,,,1.0,,
"""
# ecg_id, patient, statements, fold: as PTB-XL, folds come mixed, ids have gaps, and patients are written with a decimal
# point
ROWS = [
    (1, 101, {"NORM": 100.0, "SR": 0.0}, 3),
    (2, 102, {"IMI": 15.0, "PVC": 0.0, "AFIB": 0.0}, 9),
    (4, 103, {"NDT": 0.0, "SR": 0.0}, 1),
    (5, 101, {"SR": 0.0}, 3),
    (6, 104, {"NORM": 80.0, "NDT": 50.0}, 10),
    (8, 105, {}, 2),
]


def write_ptb_xl(folder, rows=ROWS):
    """A small PTB-XL in exactly the layout of 1.0.3; the record of id k is `beats(seed=k)`."""
    lines = ["ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"]
    for ecg_id, patient, codes, fold in rows:
        part = f"{ecg_id // 1000 * 1000:05d}"
        for rate, tag in ((100, "lr"), (500, "hr")):
            write(folder / f"records{rate}" / part, f"{ecg_id:05d}_{tag}", beats(rate, seed=ecg_id), rate, UPPER)
        lines.append(
            f'{ecg_id},{patient}.0,56.0,1,"sinus rhythm, normal","{codes}",{fold},'
            f"records100/{part}/{ecg_id:05d}_lr,records500/{part}/{ecg_id:05d}_hr"
        )
    (folder / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A cache with the small PTB-XL in it."""
    root = tmp_path_factory.mktemp("cache")
    write_ptb_xl(root / "ptb-xl")
    return root


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


# one record


def close(got, signal, atol=2e-3):
    return got.shape == signal.T.shape and bool(torch.isclose(got, torch.from_numpy(signal.T).float(), atol=atol).all())


@pytest.mark.parametrize("rate", [100, 250, 400, 500, 1000])
def test_any_sampling_rate_is_resampled_to_the_one_asked_for(tmp_path, rate):
    assert close(read_record(write(tmp_path, "r", beats(rate), rate), 100, 10), beats(100))
    assert read_record(tmp_path / "r.hea", 500, 2.5).shape == (12, 1250)


def test_leads_are_found_by_name_in_any_order_and_spelling(tmp_path):
    order = [0, 1, 2, 3, 5, 4, 11, 10, 9, 8, 7, 6]  # MIMIC-IV swaps aVF and aVL
    extra = np.concatenate([beats()[:, order], np.ones((1000, 1))], 1)
    path = write(tmp_path, "r", extra, leads=[LEADS[k].upper() for k in order] + ["vx"])
    assert close(read_record(path, 100, 10), beats())


def test_missing_limb_leads_are_computed_and_missing_chest_leads_refused(tmp_path):
    eight = [0, 1, *range(6, 12)]
    assert close(
        read_record(write(tmp_path, "r", beats()[:, eight], leads=[LEADS[k] for k in eight]), 100, 10), beats()
    )
    with pytest.raises(RecordError, match="lead missing .V6"):
        read_record(write(tmp_path, "s", beats()[:, eight[:-1]], leads=[LEADS[k] for k in eight[:-1]]), 100, 10)
    with pytest.raises(RecordError, match="lead missing .II, III, aVR, aVL, aVF"):
        read_record(
            write(tmp_path, "t", beats()[:, [0, *range(6, 12)]], leads=[LEADS[k] for k in [0, *range(6, 12)]]), 100, 10
        )


def test_gaps_are_filled_with_straight_lines_and_a_lead_of_gaps_refused(tmp_path):
    signal = beats()
    signal[100:110, 7], signal[:5, 8], signal[-5:, 9] = np.nan, np.nan, np.nan
    got = read_record(write(tmp_path, "r", signal), 100, 10)
    bridge = np.interp(np.arange(99, 111), [99, 110], signal[[99, 110], 7])
    assert (
        np.allclose(got[7, 99:111], bridge, atol=2e-3)
        and torch.equal(got[8, :5], got[8, 5].expand(5))
        and torch.equal(got[9, -5:], got[9, -6].expand(5))
    )
    signal[:, 7] = np.nan
    with pytest.raises(RecordError, match="lead without a value .V2"):
        read_record(write(tmp_path, "s", signal), 100, 10)


@pytest.mark.parametrize(("units", "scale"), [("mV", 1), ("uV", 1000), ("V", 0.001)])
def test_units_are_brought_to_millivolts(tmp_path, units, scale):
    assert close(read_record(write(tmp_path, "r", beats() * scale, units=units, gain=1000.0 / scale), 100, 10), beats())


def edit(path, old, new, times=-1):
    header = path.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, times))


def overwrite(path, first, count=1):
    """Zeros over `count` samples of all leads from the sample `first` on."""
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[24 * first : 24 * (first + count)] = bytes(24 * count)
    path.with_suffix(".dat").write_bytes(data)


def rewrite(path, change):
    """The same record with other samples."""
    signal = beats()
    change(signal)
    write(path.parent, path.name, signal)


def silence(signal):
    signal[:, 7] = 0.0


def all_but_one(signal):
    signal[:, 7], signal[500, 7] = np.nan, 0.1


def cut(path, share=0.6):
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(data[: int(share * len(data))])


TROUBLES = {
    "signal file truncated": cut,
    "signal file missing": lambda path: path.with_suffix(".dat").unlink(),
    "header missing": lambda path: path.with_suffix(".hea").rename(path.with_name("other.hea")),
    "header unreadable": lambda path: path.with_suffix(".hea").write_bytes(b"\x00\xff\x13" * 50),
    "header wrong": lambda path: edit(path, " 12 100 1000", " 15 100 1000"),
    "header without signals of its own": lambda path: path.with_suffix(".hea").write_text(
        "r/2 12 100 1000\nseg1 500\nseg2 500\n"
    ),
    "signal file outside its folder": lambda path: edit(path, "r.dat", "."),
    "shorter than asked": lambda path: edit(path, " 12 100 1000", " 12 100 800"),
    "unit is not a voltage": lambda path: edit(path, "/mV", "/bpm"),
    "lead stored twice": lambda path: edit(path, " V3", " V2"),
    "lead missing": lambda path: edit(path, " V3", " V9"),
    "voltage impossible": lambda path: edit(path, "1000.0(0)", "0.00001(0)"),
    "header without a gain": lambda path: edit(path, "1000.0(0)", "0(0)"),
    "header without a length": lambda path: edit(path, " 12 100 1000", " 12 100"),
    "samples differ from the header's sums": lambda path: overwrite(path, 600, 50),
    "lead flat": lambda path: rewrite(path, silence),
    "lead without a value": lambda path: rewrite(path, lambda signal: signal.__setitem__((slice(None), 7), np.nan)),
    "too many gaps": lambda path: rewrite(path, all_but_one),
    "signal file unreadable": lambda path: edit(path, "r.dat 16", "r.dat 508"),
}


@pytest.mark.parametrize("reason", TROUBLES)
def test_every_trouble_has_its_reason(tmp_path, reason):
    path = write(tmp_path / "in", "r", beats())
    TROUBLES[reason](path)
    with pytest.raises(RecordError) as error:
        read_record(path, 100, 10)
    assert error.value.reason == reason and "repair or remove it" in str(error.value)


def test_a_header_cannot_name_a_file_elsewhere(tmp_path):
    path = write(tmp_path / "in", "r", beats())
    path.with_suffix(".dat").rename(tmp_path / "secret.dat")
    for name in ("../secret.dat", str(tmp_path / "secret.dat"), "x/../../secret.dat"):
        edit(path, next(iter(path.with_suffix(".hea").read_text().splitlines()[1].split())), name)
        with pytest.raises(RecordError, match="header unreadable|signal file outside its folder"):
            read_record(path, 100, 10)


@settings(max_examples=80, deadline=None)
@given(
    data=st.binary(max_size=120)
    | st.text("r0129 .x+-(/)mVI#:\n", max_size=120).map(str.encode)
    | st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=4))
)
def test_no_header_crashes_the_reader(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    path = folder / "r"
    if not folder.exists():
        write(folder, "r", beats(100, 1.0))
        (folder / "good").write_bytes((folder / "r.hea").read_bytes())
    if isinstance(data, tuple):
        place, patch = data
        good = (folder / "good").read_bytes()
        data = good[:place] + patch + good[place + len(patch) :]
    (folder / "r.hea").write_bytes(data)
    try:
        signal = read_record(path, 100, 1)
    except RecordError:
        return
    assert signal.shape == (12, 100) and bool(signal.isfinite().all())


def test_a_record_whose_first_samples_were_overwritten_is_refused(tmp_path):
    overwrite(write(tmp_path, "r", beats()), 0)
    with pytest.raises(RecordError, match="samples differ"):
        read_record(tmp_path / "r", 100, 10)


def test_a_record_whose_name_holds_dots_is_not_its_neighbour(tmp_path):
    write(tmp_path / "data", "r", beats(seed=1))
    write(tmp_path / "data", "other", beats(seed=2))
    (tmp_path / "data" / "other.hea").rename(tmp_path / "data" / "r.1.hea")
    data = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert (
        data.refused == {}
        and close(data.signals[0].float(), beats(seed=1)) + close(data.signals[1].float(), beats(seed=1)) == 1
    )
    for name, seed in (("r", 1), ("r.hea", 1), ("r.dat", 1), ("r.1", 2), ("r.1.hea", 2)):
        assert close(read_record(tmp_path / "data" / name, 100, 10), beats(seed=seed)), name


# folders


def test_a_truncated_matlab_file_is_refused_and_counted(tmp_path):
    for k in range(2):
        write_cinc(tmp_path / "data", f"A{k}", beats(500, seed=k))
    path = tmp_path / "data" / "A1.mat"
    path.write_bytes(path.read_bytes()[:-100])
    data = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert len(data) == 1 and data.refused == {"signal file truncated": 1}


def test_a_challenge_folder_is_read_with_its_labels(tmp_path):
    for k, dx in enumerate(("426783006", "59118001, 164889003", "Unknown")):
        write_cinc(tmp_path / "data" / "g1", f"A{k:04d}", beats(500, seed=k), dx=dx)
    data = wfdb_folder(tmp_path / "data", 100, 10, root=tmp_path / "cache")
    assert data.label_names == ("164889003", "426783006", "59118001") and data.kind == "real" and data.refused == {}
    assert data.labels.int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]] and data.folds.tolist() == [0, 0, 0]
    assert all(close(data.signals[k].float(), beats(seed=k), 4e-3) for k in range(3)) and data.patients.tolist() == [
        0,
        1,
        2,
    ]


def test_two_folders_become_one_world_with_constants_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    for k in range(80):  # the second folder's recorder has three times the gain
        signal, folder = beats(100, seed=k), "ab"[k % 2]
        write_cinc(
            tmp_path / folder,
            f"r{k}",
            signal * (3 if folder == "b" else 1),
            rate=100,
            dx="rare, common" if k == 4 else ("common", "other")[k // 2 % 2],
        )
    cut(write(tmp_path / "b", "broken", beats()))
    cfg = ecg_jepa.preset(
        "smoke", data=f"{tmp_path / 'a'},{tmp_path / 'b'}", num_train=64, num_validation=8, num_test=8
    )
    world = ecg_world.world(cfg)
    assert [len(part) for part in (world.train, world.validation, world.test)] == [64, 8, 8]
    assert world.train.label_names == ("common", "other") and world.train.refused == {
        "signal file truncated": 1,
        "label too rare to score": 1,
    }
    patients = torch.cat([part.patients for part in (world.train, world.validation, world.test)])
    assert len(patients.unique()) == 80
    spread = world.train.signals[32:].float().std(dim=(0, 2)) / world.train.signals[:32].float().std(dim=(0, 2))
    assert torch.allclose(spread, torch.ones(12), atol=0.02)  # where the gain alone would give 3
    assert "WFDB folder a, WFDB folder b (real)" in ecg_world.described(world)


def test_folders_that_cannot_be_scored_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    for k in range(12):
        write(tmp_path / "plain", f"r{k}", beats(seed=k))
    for folder, says in (("plain", "no label of the 0"), ("nowhere", "holds no WFDB records")):
        with pytest.raises(DataError, match=says):
            ecg_world.world(ecg_jepa.preset("smoke", data=str(tmp_path / folder)))


def test_broken_records_are_counted_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "data"
    for reason, harm in TROUBLES.items():
        harm(write(folder / reason.replace(" ", "_"), "r", beats()))
    for k in range(3):
        write(folder / "fine", f"r{k}", beats(seed=k))
    (folder / "header_missing" / "other.hea").unlink()
    data = wfdb_folder(folder, root=tmp_path / "cache")
    assert len(data) == 3 and close(data.signals[1].float(), beats(seed=1)) and data.labels.shape == (3, 0)
    assert data.refused == {reason: 1 for reason in TROUBLES if reason != "header missing"}


def test_long_records_give_their_beginning_and_short_ones_are_refused(tmp_path):
    for name, seconds in (("long", 25.0), ("exact", 10.0), ("short", 9.9)):
        write(tmp_path / "data", name, beats(seconds=seconds))
    data = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert len(data) == 2 and data.refused == {"shorter than asked": 1}
    assert close(data.signals[1].float(), beats(seconds=25.0)[:1000])


def test_folder_without_records_or_without_readable_ones_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(DataError, match="holds no WFDB records; expected"):
            wfdb_folder(tmp_path / folder)
    for name in "ab":
        cut(write(tmp_path / "broken", name, beats()))
    with pytest.raises(DataError, match="none of the 2 records in .*signal file truncated': 2"):
        wfdb_folder(tmp_path / "broken", root=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.*")) == []
    with pytest.raises(DataError, match="ask for some samples"):
        wfdb_folder(tmp_path / "broken", seconds=0, root=tmp_path / "cache")


# the cache


def test_second_call_reads_no_record_again_until_one_changes(tmp_path, monkeypatch):
    for k in range(3):
        write(tmp_path / "data", f"r{k}", beats(seed=k))
    first = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    read, calls = wfdb_records._read, []
    monkeypatch.setattr(wfdb_records, "_read", lambda path, *args: calls.append(path.name) or read(path, *args))
    again = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert calls == [] and torch.equal(first.signals, again.signals) and first.sha256 == again.sha256
    write(tmp_path / "data", "r1", beats(seed=9))
    changed = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert (
        calls == ["r0", "r1", "r2"]
        and close(changed.signals[1].float(), beats(seed=9))
        and changed.sha256 != first.sha256
    )


def test_a_signal_file_of_another_name_is_watched_too(tmp_path):
    path = write(tmp_path / "data", "r", beats())
    edit(path, "r.dat", "voltages.bin")
    path.with_suffix(".dat").rename(tmp_path / "data" / "voltages.bin")
    wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    other = write(tmp_path / "other", "r", beats(seed=5))
    (tmp_path / "data" / "voltages.bin").write_bytes(other.with_suffix(".dat").read_bytes())
    with pytest.raises(DataError, match="differ from the header's sums"):
        wfdb_folder(tmp_path / "data", root=tmp_path / "cache")


@pytest.mark.parametrize(
    "harm",
    [lambda f: f.write_bytes(f.read_bytes()[:-2]), lambda f: f.with_suffix(".json").write_text("{"), os.unlink],
    ids=["cut", "half-a-note", "gone"],
)
def test_a_damaged_cache_file_is_made_again(tmp_path, harm):
    write(tmp_path / "data", "r", beats())
    first = wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals.clone()
    [stored] = (tmp_path / "cache").rglob("*.f16")
    harm(stored)
    assert torch.equal(wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals, first)


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path, monkeypatch):
    for k in range(3):
        write(tmp_path / "data", f"r{k}", beats(seed=k))
    read = wfdb_records._read

    def dies(path, *args):
        if path.name == "r2":
            raise KeyboardInterrupt
        return read(path, *args)

    monkeypatch.setattr(wfdb_records, "_read", dies)
    with pytest.raises(KeyboardInterrupt):
        wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert list((tmp_path / "cache" / "ecg").iterdir()) == []
    (tmp_path / "cache" / "ecg" / ".tmp-of-a-run-that-got-no-chance").write_bytes(b"x")
    os.utime(tmp_path / "cache" / "ecg" / ".tmp-of-a-run-that-got-no-chance", (0, 0))
    monkeypatch.setattr(wfdb_records, "_read", read)
    assert (
        len(wfdb_folder(tmp_path / "data", root=tmp_path / "cache")) == 3
        and len(list((tmp_path / "cache" / "ecg").iterdir())) == 2
    )


def test_nobody_can_write_the_cache_through_the_tensor(tmp_path):
    write(tmp_path / "data", "r", beats())
    wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals.zero_()
    assert close(wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals[0].float(), beats())


MEMORY = """
import resource, sys
import torch
from pathlib import Path
from jepa_lab.data import wfdb_records
from jepa_lab.data.ecg.wfdb import pile
noise = torch.randn(12, 5000)
wfdb_records._read = lambda path, rate, seconds: (noise, ())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = pile(Path(sys.argv[1]), [f"r{k}" for k in range(400)], 500, 10, Path(sys.argv[1]) / "cache")
built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.signals.nbytes, (built - before) * 1024)
"""


def test_building_needs_the_memory_of_one_record_not_of_all(tmp_path, repo):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, cwd=repo, check=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 48_000_000 and grown < 15_000_000


# PTB-XL


def test_ptb_xl_comes_in_the_order_of_its_folds_with_patients_and_voltages(small):
    data = ptb_xl(small, task="all")
    assert data.folds.tolist() == [1, 3, 3, 9, 10] and data.patients.tolist() == [103, 101, 101, 102, 104]
    assert (
        data.label_names == ("AFIB", "IMI", "NDT", "NORM", "PVC", "SR")
        and data.rate == 100
        and data.kind == "real"
        and data.refused == {}
    )
    assert all(close(data.signals[k].float(), beats(seed=seed)) for k, seed in enumerate((4, 1, 5, 2, 6)))


@pytest.mark.parametrize(
    ("task", "names", "rows"),
    [
        (
            "all",
            ("AFIB", "IMI", "NDT", "NORM", "PVC", "SR"),
            {4: "NDT SR", 1: "NORM SR", 5: "SR", 2: "AFIB IMI PVC", 6: "NDT NORM"},
        ),
        ("diagnostic", ("IMI", "NDT", "NORM"), {4: "NDT", 1: "NORM", 2: "IMI", 6: "NDT NORM"}),
        ("subclass", ("IMI", "NORM", "STTC"), {4: "STTC", 1: "NORM", 2: "IMI", 6: "NORM STTC"}),
        ("superclass", ("MI", "NORM", "STTC"), {4: "STTC", 1: "NORM", 2: "MI", 6: "NORM STTC"}),
        ("form", ("NDT", "PVC"), {4: "NDT", 2: "PVC", 6: "NDT"}),
        ("rhythm", ("AFIB", "SR"), {4: "SR", 1: "SR", 5: "SR", 2: "AFIB"}),
    ],
)
def test_each_task_has_its_labels_whatever_their_likelihood_and_drops_records_without_any(small, task, names, rows):
    data = ptb_xl(small, task=task)
    assert data.label_names == names
    assert [" ".join(name for name, here in zip(names, row) if here) for row in data.labels.tolist()] == list(
        rows.values()
    )
    assert all(close(data.signals[k].float(), beats(seed=seed)) for k, seed in enumerate(rows))


def test_both_rates_come_from_their_own_files_and_others_from_500_hz(small):
    for rate, samples in ((500, 5000), (250, 2500)):
        data = ptb_xl(small, rate=rate, task="all")
        assert data.signals.shape == (5, 12, samples) and data.rate == rate
        assert close(data.signals[1].float(), beats(rate, seed=1))


def test_tasks_share_one_cache_file_and_folds_of_the_whole_are_views(small):
    for task in ecg.TASKS:
        ptb_xl(small, task=task)
    assert (
        len([path for path in (small / "ecg").glob("*.json") if json.loads(path.read_text())["bytes"] == 6 * 24_000])
        == 1
    )
    data = ptb_xl(small, task="superclass")
    assert by_fold(data, range(1, 9)).signals.data_ptr() == data.signals.data_ptr()
    assert {path.suffix for path in (small / "ecg").iterdir()} == {".f16", ".json"}


def test_the_folder_itself_can_be_named_and_is_left_as_it_was(tmp_path, monkeypatch):
    folder = write_ptb_xl(tmp_path / "somewhere" / "ptb-xl-1.0.3", ROWS[:2])
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    before = sorted(folder.rglob("*"))
    assert len(ptb_xl(folder)) == 2 and ecg.ptb_xl_folder(folder) == folder and sorted(folder.rglob("*")) == before
    assert ecg.ptb_xl_folder() is None


def test_hostile_paths_and_broken_lines_are_refused_by_record(tmp_path):
    folder = write_ptb_xl(tmp_path / "ptb-xl")
    write(tmp_path, "outside", beats(), leads=UPPER)
    table = folder / "ptbxl_database.csv"
    good = table.read_text()
    row = '{},7.0,56.0,1,"x","{}",{},{},{}\n'
    hostile = [
        "../outside",
        str(tmp_path / "outside"),
        "records100/../../outside",
        "s3://bucket/r",
        "records100/00000/none",
        ".",
    ]
    table.write_text(
        good
        + "".join(row.format(50 + k, "{'NORM': 100.0}", 5, name, name) for k, name in enumerate(hostile))
        + row.format(60, "__import__('os').system('touch hacked')", 5, "records100/00000/00001_lr", "x")
        + row.format(61, "[1]", 5, "records100/00000/00001_lr", "x")
        + row.format(62, "{'NORM': 100.0}", 11, "records100/00000/00001_lr", "x")
        + row.format("?", "{'NORM': 100.0}", 5, "records100/00000/00001_lr", "x")
        + "63,7\n"
        + row.format(64, "(" * 5000, 5, "x", "x")
    )
    cut(folder / "records100" / "00000" / "00002_lr")
    data = ptb_xl(tmp_path, task="all")
    assert len(data) == 4 and 5 not in data.folds.tolist()
    assert data.refused == {
        "path outside the data folder": 5,
        "header missing": 1,
        "line of ptbxl_database.csv unreadable": 6,
        "signal file truncated": 1,
    }
    assert not Path("hacked").exists()


def test_unknown_task_wrong_folder_and_other_tables_say_what_to_do(tmp_path, small):
    with pytest.raises(DataError, match="no task 'supreme'; choose one of all, diagnostic"):
        ptb_xl(small, task="supreme")
    with pytest.raises(DataError, match="no PTB-XL in .*data fetch ptb-xl"):
        ptb_xl(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot read .*scp_statements.csv"):
        ptb_xl(tmp_path)
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS)
    with pytest.raises(DataError, match="lacks the columns .*'ecg_id'"):
        ptb_xl(tmp_path)
    (tmp_path / "scp_statements.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        ptb_xl(tmp_path)
