"""Twelve-lead electrocardiograms: one labelled set, split by patient, normalised per lead, cut into patches.

This file gathers what chapters use; `sets`, `folders`, `ptb_xl` and `wfdb` hold the code.
"""

from jepa_lab.data.ecg.folders import databases, wfdb_folder
from jepa_lab.data.ecg.leads import LEADS, MAX_MV
from jepa_lab.data.ecg.ptb_xl import TASKS, ptb_xl, ptb_xl_folder
from jepa_lab.data.ecg.sets import ECGSet, by_fold, lead_stats, normalise, patchify, scorable, split
from jepa_lab.data.ecg.wfdb import RecordError, read_record

__all__ = [
    "LEADS",
    "MAX_MV",
    "TASKS",
    "ECGSet",
    "RecordError",
    "by_fold",
    "databases",
    "lead_stats",
    "normalise",
    "patchify",
    "ptb_xl",
    "ptb_xl_folder",
    "read_record",
    "scorable",
    "split",
    "wfdb_folder",
]
