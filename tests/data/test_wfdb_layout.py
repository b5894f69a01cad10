"""What a WFDB reader takes for granted is checked: layout, width, unit and skew are those of the file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from wfdb_files import beats, close, edit, write, write_cinc

from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.ecg.wfdb import RecordError, read_record
from jepa_lab.data.sources.archives import DataError

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # inside wfdb 4.3.1


def refusal(path, seconds=10):
    with pytest.raises(RecordError) as error:
        read_record(path, 100, seconds)
    return error.value.reason


def whole_numbers(path):
    return np.frombuffer(path.with_suffix(".dat").read_bytes(), "<i2").reshape(-1, 12)


@pytest.mark.parametrize("options", [{}, {"do_compression": True}], ids=["plain", "compressed"])
def test_a_matlab_file_of_a_later_version_is_refused_by_its_first_bytes(tmp_path, options):
    write_cinc(tmp_path, "r", beats(), rate=100)
    savemat(tmp_path / "r.mat", {"val": np.round(beats().T * 1000).astype(np.int16)}, **options)
    assert refusal(tmp_path / "r") == "MATLAB file of another version"
    for start in (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n"):
        (tmp_path / "r.mat").write_bytes(start.ljust(24_024))
        assert refusal(tmp_path / "r") == "MATLAB file of another version"


@pytest.mark.parametrize(
    "matrix",
    [lambda x: x.T, lambda x: x.astype(np.uint16), lambda x: x.astype(np.float64)],
    ids=["turned", "u16", "f64"],
)
def test_a_matlab_matrix_of_another_shape_or_type_is_refused(tmp_path, matrix):
    write_cinc(tmp_path, "r", beats(), rate=100)
    assert close(read_record(tmp_path / "r", 100, 10), beats())
    stored = np.round(beats().T * 1000).astype(np.int16)
    savemat(tmp_path / "r.mat", {"val": matrix(stored)}, format="4")
    assert refusal(tmp_path / "r") == "MATLAB matrix of another kind"


def test_samples_of_another_width_are_refused_by_the_length_of_the_file(tmp_path):
    path = write(tmp_path, "r", beats())
    path.with_suffix(".dat").write_bytes(whole_numbers(path).astype("<i4").tobytes())
    assert refusal(path) == "signal file longer than its header says"


@pytest.mark.parametrize(("fmt", "gain"), [("212", 200.0), ("24", 1e4), ("32", 1e5), ("80", 20.0)])
def test_files_of_other_formats_have_the_length_that_their_header_says(tmp_path, fmt, gain):
    path = write(tmp_path, "r", beats()[:999], fmt=fmt, gain=gain)
    assert close(read_record(path, 100, 9.5), beats()[:950], 1 / gain + 1e-6)
    with open(path.with_suffix(".dat"), "ab") as stream:
        stream.write(bytes(4))
    assert refusal(path, 9.5) == "signal file longer than its header says"


def test_a_voltage_that_no_heart_reaches_is_refused(tmp_path):
    spike = beats()
    spike[500, 3] = 25.0
    assert refusal(write(tmp_path, "r", spike)) == "voltage impossible"


@pytest.mark.parametrize("unit", ["µV".encode(), "μV".encode(), "µV".encode("latin-1"), b"uV"])
def test_microvolts_are_read_however_micro_is_written(tmp_path, unit):
    path = write(tmp_path, "r", beats())
    header = path.with_suffix(".hea")
    data = np.round(beats() * 1000).astype("<i2")
    path.with_suffix(".dat").write_bytes(data.tobytes())
    lines = header.read_bytes().splitlines()
    lines[1:] = [b"r.dat 16 1(0)/" + unit + f" 16 0 0 0 0 {lead}".encode() for lead in LEADS]
    header.write_bytes(b"\n".join(lines) + b"\n")
    assert close(read_record(path, 100, 10), beats())


def test_leads_that_came_late_are_moved_back_after_their_sums_are_checked(tmp_path):
    late = {0: 3, 7: 5}  # wfdb itself fails for two different skews
    shifted = beats(seconds=10.1)
    for lead, skew in late.items():
        shifted[:, lead] = np.concatenate([np.full(skew, 0.5), shifted[:-skew, lead]])
    path = write(tmp_path, "r", shifted)
    header = path.with_suffix(".hea")
    lines = header.read_text().splitlines()
    for lead, skew in late.items():
        lines[1 + lead] = lines[1 + lead].replace("r.dat 16 ", f"r.dat 16:{skew} ")
    header.write_text("\n".join(lines) + "\n")
    assert close(read_record(path, 100, 10), beats(seconds=10.1)[:1000])
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[24_000:24_100] = bytes(100)
    path.with_suffix(".dat").write_bytes(data)
    assert refusal(path) == "samples differ from the header's sums"


def test_other_refusals_name_their_own_reason(tmp_path):
    path = write(tmp_path, "r", beats())
    edit(path, " 12 100 1000", " 12 100 0")
    assert refusal(path) == "header without a length"
    path = write(tmp_path, "r", beats())
    edit(path, "r.dat 16 ", "r.dat 61 ", 1)
    assert refusal(path) == "header wrong"
    assert refusal(write(tmp_path / "a::b", "r", beats())) == "'::' in its path"
    path = write(tmp_path / "upper", "r", beats())
    path.with_suffix(".hea").rename(path.with_suffix(".HEA"))
    assert refusal(path) == "header's name ends in .HEA"


@settings(max_examples=150, deadline=None)
@given(
    fmt=st.sampled_from(["8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524", "0", "7"]),
    extra=st.sampled_from(["", "x2", ":3", "+24", "x3:2+24", "x0", ":999999999", "+999999999999"]),
    gain=st.sampled_from(["1000(0)/mV", "-1000/uV", "1e-30", "1(9999999999999)/mV", "1e999", "1.2.3", "/mV", "(", "0"]),
    numbers=st.sampled_from(["16 0 0 0 0", "16 0 -32768 65535 512", "", "16", "99999999999999999999 0 1 1 0"]),
    first=st.sampled_from(
        ["12 100 100", "12 100 101", "1 100 100", "12 1e2 100", "12 100 99999999999", "12 100/2(7) 100"]
    ),
    start=st.sampled_from([b"", b"MATLAB 5.0", b"MATLAB 7.3", b"fLaC", b"\x1f\x8b", b"\x89HDF", bytes(24)]),
    body=st.binary(max_size=40),
    size=st.sampled_from([0, 1, 1200, 1800, 2400, 2424, 3600, 4800]),
    mat=st.booleans(),
)
def test_no_signal_file_crashes_the_reader(tmp_path_factory, fmt, extra, gain, numbers, first, start, body, size, mat):
    folder = tmp_path_factory.getbasetemp() / "fuzzed signals"
    folder.mkdir(exist_ok=True)
    file = "r.mat" if mat else "r.dat"
    lines = [f"{file} {fmt}{extra} {gain} {numbers} {lead}" for lead in LEADS]
    (folder / "r.hea").write_text("\n".join([f"r {first}", *lines, "#Dx: 1"]))
    (folder / file).write_bytes((start + (body or b"\0") * size)[:size])
    try:
        signal = read_record(folder / "r", 100, 1)
    except DataError as error:
        assert isinstance(error, RecordError) and str(error).startswith(str(folder)) and error.reason in str(error)
        assert str(error).endswith("repair or remove it")
        return
    assert signal.shape == (12, 100) and bool(signal.isfinite().all()) and float(signal.abs().max()) <= 20
    assert signal.dtype == torch.float32
