"""With PTB-XL in the data folder the whole chapter runs on it: a small one in the layout of 1.0.3, its records
simulated.
"""

import json
import os
import subprocess
import sys

import torch

from jepa_lab.data.ecg.records import LEADS
from jepa_lab.data.ecg.simulator import DIAGNOSES, simulate

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


def test_the_chapter_runs_on_ptb_xl_where_it_is_and_counts_what_it_refuses(tmp_path, repo):
    write_ptb_xl(tmp_path / "data" / "ptb-xl")
    cut = tmp_path / "data" / "ptb-xl" / "records100" / "00000" / "00011_lr.dat"
    cut.write_bytes(cut.read_bytes()[:1000])
    command = [
        sys.executable,
        "-m",
        "jepa_lab",
        "batch",
        "07_ecg_jepa",
        "--preset",
        "smoke",
        "--seeds",
        "0:1",
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        command,
        cwd=repo,
        env={**os.environ, "JEPA_LAB_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (tmp_path / "out" / "07_ecg_jepa").glob("*.json")
    record = json.loads(path.read_text())
    assert (
        record["config"]["data"] == "ptb-xl"
        and record["data"][0]["name"] == "PTB-XL"
        and record["data"][0]["kind"] == "real"
    )
    assert record["values"]["left out: signal file truncated"] == 1
