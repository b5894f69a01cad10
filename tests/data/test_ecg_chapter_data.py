"""Records on their way into chapter 07: from a small PTB-XL to a score, and from memory or a file to a batch."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.ecg.sets import by_fold
from jepa_lab.data.ecg.simulator import DIAGNOSES, simulate
from jepa_lab.papers.ecg_jepa import paper, world

TRAIN_FOLDS, ALL = 17_439, 21_799  # records of PTB-XL 1.0.3: folds 1 to 8, all ten
CODES = dict(zip(DIAGNOSES, ("AFIB", "PVC", "CLBBB", "CRBBB", "ASMI", "IMI", "NDT", "SBRAD", "LVH"), strict=True))
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
AFIB,atrial fibrillation,,,1.0,,
PVC,ventricular premature complex,,1.0,,,
CLBBB,complete left bundle branch block,1.0,,,CD,CLBBB
CRBBB,complete right bundle branch block,1.0,,,CD,CRBBB
ASMI,anteroseptal infarction,1.0,,,MI,AMI
IMI,inferior infarction,1.0,,,MI,IMI
NDT,non-diagnostic T abnormalities,1.0,1.0,,STTC,STTC
SBRAD,sinus bradycardia,,,1.0,,
LVH,left ventricular hypertrophy,1.0,,,HYP,LVH
"""


def write_record(stem, signal_12T):
    """Format 16, 1000 units per mV, first values and sums in the header: as PhysioNet has them."""
    stored = (1000 * signal_12T.double()).round().to(torch.int16)
    stem.with_suffix(".dat").write_bytes(stored.T.contiguous().numpy().tobytes())
    lines = [f"{stem.name} 12 100 {stored.shape[1]}"]
    for lead, row in zip(LEADS, stored.tolist()):
        lines.append(f"{stem.name}.dat 16 1000.0(0)/mV 16 0 {row[0]} {sum(row) % 65536} 0 {lead.upper()}")
    stem.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def write_ptb_xl(folder, n=320):
    data = simulate(n, seed=3, prevalence=0.2)
    (folder / "records100" / "00000").mkdir(parents=True)
    lines = ["ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"]
    for i, (signal, row) in enumerate(zip(data.signals, data.labels.tolist()), start=1):
        codes = {CODES[name]: 100.0 for name, has in zip(DIAGNOSES, row) if has} or {"NORM": 100.0}
        name = f"records100/00000/{i:05d}_lr"
        write_record(folder / name, signal)
        lines.append(f'{i},{i}.0,56.0,1,"a report","{codes}",{i % 10 + 1},{name},records500/00000/{i:05d}_hr')
    (folder / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (folder / "scp_statements.csv").write_text(STATEMENTS)


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:.* resamples lack positives")
def test_the_reference_model_trains_on_ptb_xl_where_it_is_and_counts_what_it_refuses(tmp_path, monkeypatch, capsys):
    write_ptb_xl(tmp_path / "data" / "ptb-xl")
    cut = tmp_path / "data" / "ptb-xl" / "records100" / "00000" / "00011_lr.dat"
    cut.write_bytes(cut.read_bytes()[:1000])
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "data"))
    cfg = paper.preset("smoke")
    assert cfg.data == "ptb-xl"
    score = paper.train_reference(cfg, tmp_path / "out", progress=False)["macro-AUC"]
    assert 0 < score.value < 1
    printed = capsys.readouterr().out
    assert "data: PTB-XL (real)" in printed and "left out: 1 (signal file truncated)" in printed


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """48 records at 500 Hz in a memory-mapped float16 file, as `pile` leaves them."""
    data = simulate(48, seed=0, rate=500, prevalence=0.3)
    path = tmp_path_factory.mktemp("map") / "records.f16"
    path.write_bytes(data.signals.numpy().tobytes())
    return replace(data, signals=torch.from_numpy(np.memmap(path, np.float16, "c", shape=tuple(data.signals.shape))))


def cpu_s(do, times: int) -> float:
    """Least CPU time of one call, which other processes on the machine change less than the time on the clock."""
    found = []
    for _ in range(times):
        start = time.process_time()
        do()
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.parametrize(
    "preset, changes, batch_size", [("laptop", {}, 16), ("gpu", {"precision": "float32", "data": "simulated"}, 4)]
)
def test_loading_costs_a_tenth_of_training(mapped, preset, changes, batch_size):
    cfg = replace(paper.preset(preset, **changes), batch_size=batch_size)
    records = mapped if preset == "gpu" else simulate(48, seed=0, prevalence=0.3)
    arm = paper.arms(cfg, world.from_parts([records] * 3, cfg.patch))[paper.REFERENCE]
    model, idx_B = arm.build(cfg), torch.randperm(48)[:batch_size]
    drawn = arm.task.draw(idx_B, torch.Generator().manual_seed(0))

    def step():
        loss = arm.objective(model, arm.task.load(idx_B, drawn), drawn)
        loss.backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step()
        load, whole = cpu_s(lambda: arm.task.load(idx_B, drawn), 15), cpu_s(step, 3)
    finally:
        torch.set_num_threads(threads)
    assert whole > 10 * load, f"{1000 * load:.2f} ms to load, {1000 * whole:.1f} ms a step"


def test_the_training_records_of_ptb_xl_at_500_hz_fit_in_two_and_a_half_gigabytes(mapped):
    bytes_each = mapped.signals.nbytes / len(mapped)
    assert bytes_each == 12 * 5000 * 2
    assert TRAIN_FOLDS * bytes_each < 2.5e9 < ALL * bytes_each < 2.7e9  # the cache keeps all ten folds
    part = by_fold(replace(mapped, folds=torch.arange(48) // 5 + 1), range(1, 9))
    assert part.signals.data_ptr() == mapped.signals.data_ptr()  # folds 1 to 8 are read from the file in place
