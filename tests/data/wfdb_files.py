"""WFDB records, whole and broken, and a small PTB-XL, in the layouts that others write."""

import numpy as np
import torch
from scipy.io import savemat

from jepa_lab.data.ecg.leads import LEADS, limb_leads

UPPER = [lead.upper() for lead in LEADS]  # as PTB-XL writes them


def beats(rate=100, seconds=10.0, seed=0):
    """(T, 12) in mV: smooth, so that it can be resampled, with Einthoven's law."""
    rng, time = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
    waves = [
        sum(rng.normal() * 0.2 * np.sin(2 * np.pi * k * time / 10 + rng.uniform(0, 6)) for k in range(1, 40))
        for _ in range(8)
    ]
    limbs = limb_leads(*torch.from_numpy(np.stack(waves[:2]))).numpy()
    return np.concatenate([limbs, waves[2:]]).T


def write(folder, name, signal, rate=100, leads=LEADS, units="mV", fmt="16", gain=1000.0):
    """One record as PhysioNet has them: format 16, 1000 units per mV, the baseline at 0."""
    import wfdb  # here, so that a test can ignore the warnings of its import

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


def close(got, signal, atol=2e-3):
    return got.shape == signal.T.shape and bool(torch.isclose(got, torch.from_numpy(signal.T).float(), atol=atol).all())


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
