"""Simulated sets: the same bits everywhere, the labels asked for, patients together, no hint of the labels in size."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from measured_ecg import beats_of, mean_beat

from jepa_lab.data.ecg.draws import normal, seeded
from jepa_lab.data.ecg.records import MAX_MV, lead_stats, normalise, patchify, split
from jepa_lab.data.ecg.rhythm import draw_labels
from jepa_lab.data.ecg.simulator import DIAGNOSES, simulate, simulate_planted
from jepa_lab.data.sources.archives import DataError

# the same bits everywhere: of simulate(60, 7, prevalence=0.2), taken on an Intel Xeon with AVX-512
SHA256 = "e329887a8988f0e882720d1be3f37374e66bbe76153c620cab06e84234afd27f"


def test_simulated_records_have_the_stored_bits_on_this_processor():
    assert simulate(60, 7, prevalence=0.2).sha256 == SHA256
    assert simulate(60, 8, prevalence=0.2).sha256 != SHA256


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        # torch's plain kernels, MKL's and glibc's for old processors; one thread
        (
            {
                "ATEN_CPU_CAPABILITY": "default",
                "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
                "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
            },
            1,
        ),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, 3),
    ],
    ids=["old", "avx2"],
)
def test_another_processor_and_number_of_threads_give_the_same_bits(repo, environment, threads):
    code = f"""
import torch
torch.set_num_threads({threads})
from jepa_lab.data.ecg.simulator import simulate
print(simulate(60, 7, prevalence=0.2).sha256)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=repo, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SHA256


@pytest.mark.parametrize(("rate", "seconds"), [(100, 10), (250, 4), (500, 2.5), (100, 30)])
def test_every_record_is_finite_has_its_size_and_a_plausible_voltage(rate, seconds):
    data = simulate(260, 3, rate, seconds, 0.2)
    assert data.signals.shape == (260, 12, round(rate * seconds)) and data.rate == rate and data.kind == "simulated"
    peak = data.signals.float().abs().amax((1, 2))
    assert bool(data.signals.isfinite().all())
    assert float(peak.min()) > 0.2 and float(peak.median()) < 4 and float(peak.max()) < MAX_MV
    tokens = patchify(normalise(data.signals, lead_stats(data.signals)), 25)
    assert tokens.shape == (260, round(rate * seconds) // 25, 300) and 0.5 < float(tokens.std()) < 1.2


# labels


def test_prevalences_are_those_asked_for_and_exclusive_diagnoses_never_meet():
    labels = draw_labels(40_000, 0.2, seeded(0)).double()
    assert float((labels.mean(0) - 0.2).abs().max()) < 0.01
    together = (labels.T @ labels / len(labels)).numpy()
    apart = {("bradycardia", "tachycardia"), ("LBBB", "RBBB"), ("LBBB", "T inversion")}
    for i, one in enumerate(DIAGNOSES):
        for j, two in enumerate(DIAGNOSES[:i]):
            met = together[i, j]
            assert met == 0 if {(one, two), (two, one)} & apart else 0.03 < met < 0.06, (one, two)


def test_prevalence_can_be_given_by_name_and_nonsense_is_refused():
    labels = simulate(2000, 0, seconds=2, prevalence={"AF": 0.3}).labels
    assert abs(float(labels[:, 0].double().mean()) - 0.3) < 0.05 and not bool(labels[:, 1:].any())
    for prevalence, says in (
        ({"flu": 0.1}, "no diagnosis is called flu; known: AF"),
        (1.5, "must lie in 0..1"),
        (-0.1, "must lie in"),
        (0.6, "must not sum above 1"),
    ):
        with pytest.raises(DataError, match=says):
            simulate(2, 0, prevalence=prevalence)
    for arguments in ({"n": 0}, {"n": 2, "rate": 20}, {"n": 2, "seconds": 1}, {"n": 2, "records_per_patient": 0}):
        with pytest.raises(DataError, match="cannot simulate"):
            simulate(seed=0, **arguments)


def auc(scores, labels):
    order = np.argsort(np.argsort(scores)) + 1
    positive = labels.sum()
    return (order[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


def test_noise_gain_and_voltage_do_not_tell_the_diagnosis():
    data, planted = simulate_planted(2000, 11)
    x, labels = data.signals.float(), data.labels.numpy()
    size = {"noise": planted.noise_mv, "gain": planted.gain, "wander": x.mean((1, 2)).abs()}
    for name, values in size.items():
        worst = max(abs(auc(values.numpy(), column) - 0.5) for column in labels.T)
        assert worst < 4 * 0.29 / np.sqrt(labels.sum(0).min()), name
    reach = x.amax((1, 2)) - x.amin((1, 2))
    scores = {name: abs(auc(reach.numpy(), column) - 0.5) for name, column in zip(DIAGNOSES, labels.T)}
    assert max(score for name, score in scores.items() if name != "PVC") < 0.06 and scores["PVC"] < 0.3


def test_hand_made_statistics_leave_room_above_them():
    from sklearn.linear_model import LogisticRegression

    data = simulate(1200, 12, prevalence=0.15)
    x, labels = data.signals.float(), data.labels.numpy()
    features = torch.cat([x.std(-1), x.mean(-1), x.amax(-1), x.amin(-1)], 1)
    features = ((features - features.mean(0)) / features.std(0)).numpy()
    scores = []
    for column in labels.T:
        reader = LogisticRegression(C=0.1, max_iter=60).fit(features[:600], column[:600])
        scores.append(auc(reader.decision_function(features[600:]), column[600:]))
    assert 0.6 < np.mean(scores) < 0.82


# patients


def test_records_of_one_patient_look_alike_and_stay_together():
    data, planted = simulate_planted(60, 5, 500, prevalence=0.0, records_per_patient=2)
    assert data.patients.tolist() == [k // 2 for k in range(60)]
    beats = [
        mean_beat(signal, beats_of(planted, i), 500, (-0.08, 0.08))[0].ravel()
        for i, signal in enumerate(data.signals.double().numpy())
    ]
    alike = np.corrcoef(np.stack(beats))
    same = alike[np.arange(0, 60, 2), np.arange(1, 60, 2)]
    assert np.median(same) > 0.95 and np.median(same) > np.quantile(alike[0, 2:], 0.9)
    one, two = split(data, (30, 30), 0)
    assert not set(one.patients.tolist()) & set(two.patients.tolist())


# speed


def cpu_s(do) -> float:
    """Least CPU time of three calls."""
    found = []
    for _ in range(3):
        start = time.process_time()
        do()
        found.append(time.process_time() - start)
    return min(found)


def test_simulating_costs_little_more_than_drawing_its_noise():
    """Measured: 4.5 times as much, and 2,600 records of 10 s at 100 Hz a second on one core of a Xeon."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        simulate(50, 0)
        generator = seeded(0)
        noise, whole = cpu_s(lambda: normal(generator, 400, 9, 1000)), cpu_s(lambda: simulate(400, 0))
    finally:
        torch.set_num_threads(threads)
    assert whole < 12 * noise, f"{1000 * whole:.0f} ms for 400 records, {1000 * noise:.0f} ms for their noise"
