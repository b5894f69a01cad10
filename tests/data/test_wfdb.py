"""Whatever a WFDB record holds: the right twelve leads come out, or a refusal with its reason."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wfdb_files import TROUBLES, beats, close, edit, overwrite, write

from jepa_lab.data.ecg.folders import wfdb_folder
from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.ecg.wfdb import RecordError, read_record

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # inside wfdb 4.3.1


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
