"""The direction and size of each wave as a current dipole, and what the leads see of it.

A patient's body sees the heart through an 8 x 3 lead matrix (Dower 1980, jittered), turned by the heart's position.
Axes: x to the patient's left, y to the feet, z to the back. Voltages in mV.
Shape letters: n records, p patients, W waves.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from jepa_lab.data.ecg.draws import normal, spread, uniform
from jepa_lab.data.ecg.rhythm import LBBB, RBBB, STE_ANTERIOR, T_INVERSION
from jepa_lab.data.ecg.waves import LATE, PVC_R, PVC_S, PVC_T, ST, WAVES, Q, S, T, Timing


def _table(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.double)


# Dower 1980: what leads I, II, V1..V6 see of a dipole along x, y, z.
DOWER_83 = _table(
    [0.632, -0.235, 0.059],
    [0.235, 1.066, -0.132],
    [-0.515, 0.157, -0.917],
    [0.044, 0.164, -1.387],
    [0.882, 0.098, -1.277],
    [1.213, 0.127, -0.601],
    [1.125, 0.127, -0.086],
    [0.831, 0.076, 0.230],
)
# The dipole of each wave at its peak, before it is brought to size: P, Q, R, S, (no late wave), (no ST shift), T.
NORMAL_73 = _table(
    [0.10, 0.11, -0.02],
    [-0.15, -0.05, -0.22],
    [1.0, 0.8, 0.15],
    [-0.15, -0.15, 0.55],
    [0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0],
    [0.30, 0.22, -0.13],
)
# Q, R, S and the late wave with left block: no septal q; slow, to the left and back.
LBBB_QRS_43 = _table([0.15, 0.05, 0.15], [0.95, 0.40, 0.50], [0.10, 0.0, 0.25], [0.85, 0.20, 0.60])
LBBB_T_3 = _table(-0.7, -0.25, -0.55)  # T turns against the QRS
RBBB_LATE_3 = _table(-0.55, 0.0, -0.60)  # the right ventricle comes last, to the right and front
RBBB_T_3 = _table(0.03, 0.0, 0.22)  # what a right block adds to the direction of T
INJURY_23 = _table([0.35, -0.25, -0.90], [-0.15, 0.95, 0.15])  # injury currents point to the wall: anterior, inferior


def draw_seen(labels: Tensor, timing: Timing, patients: Tensor, generator: np.random.Generator) -> Tensor:
    """What leads I, II, V1..V6 see of each wave at its peak (n, W, 8): dipoles through each patient's lead matrix."""
    people = int(patients[-1]) + 1
    lead_p83 = DOWER_83 * (1 + 0.15 * normal(generator, people, 8, 3)) + 0.06 * normal(generator, people, 8, 3)
    frame_p33 = _positions(people, 24, generator)
    local_pW8 = 0.10 * normal(generator, people, len(WAVES), 8)  # what no single dipole explains, in the chest leads
    local_pW8[..., :2] = 0
    dipole_nW3 = _draw_dipoles(labels, timing, patients, generator)
    seen_nW8 = torch.einsum("nwi,nji,nlj->nwl", dipole_nW3, frame_p33[patients], lead_p83[patients])
    return seen_nW8 + local_pW8[patients] * dipole_nW3.norm(dim=-1, keepdim=True)


def turn(vectors: Tensor, degrees: float, generator: np.random.Generator) -> Tensor:
    """Each 3-vector turned about a random axis by an angle of spread `degrees` (Rodrigues' formula)."""
    axis = normalize(normal(generator, *vectors.shape), dim=-1)
    angle = math.radians(degrees) * normal(generator, *vectors.shape[:-1], 1)
    along = (axis * vectors).sum(-1, keepdim=True) * axis
    return along + (vectors - along) * angle.cos() + torch.linalg.cross(axis, vectors) * angle.sin()


def _positions(people: int, degrees: float, generator: np.random.Generator) -> Tensor:
    """How each heart lies in its chest: rotations (p, 3, 3) of spread `degrees` about each axis."""
    x, y, z = (math.radians(degrees) * normal(generator, people, 3)).unbind(-1)
    zero = torch.zeros_like(x)
    skew_p9 = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return torch.linalg.matrix_exp(skew_p9.unflatten(-1, (3, 3)))


def _draw_dipoles(labels: Tensor, timing: Timing, patients: Tensor, generator: np.random.Generator) -> Tensor:
    """The dipole of every wave (n, W, 3). Its size is drawn alike for all diagnoses: voltage alone tells nothing."""
    people = int(patients[-1]) + 1
    base_pW3 = torch.zeros(people, len(WAVES), 3, dtype=torch.double)
    base_pW3[:, : T + 1] = turn(NORMAL_73.expand(people, -1, -1), 16, generator)
    base_pW3[:, : T + 1] *= spread(generator, 1, 0.25, people, T + 1, 1)
    dipole_nW3 = base_pW3[patients]
    dipole_nW3[:, Q:ST] = _depolarisation(dipole_nW3[:, Q:ST], labels, timing, patients, generator)
    dipole_nW3[:, T] = _repolarisation(dipole_nW3[:, T], labels, patients, generator)
    dipole_nW3[:, ST] = _st_shift(dipole_nW3[:, T], labels, generator)
    focus_p3 = normalize(normal(generator, people, 3), dim=-1)  # where a patient's ectopic beats point to
    size_n1 = spread(generator, 1.5, 0.4, people, 1)[patients]
    dipole_nW3[:, PVC_R] = size_n1 * focus_p3[patients]
    dipole_nW3[:, PVC_S] = 0.6 * size_n1 * turn(focus_p3, 40, generator)[patients]
    dipole_nW3[:, PVC_T] = -0.35 * size_n1 * turn(focus_p3, 20, generator)[patients]
    return dipole_nW3


def _depolarisation(
    qrs_n43: Tensor, labels: Tensor, timing: Timing, patients: Tensor, generator: np.random.Generator
) -> Tensor:
    """Q, R, S and the late wave (n, 4, 3), reshaped by a block and brought to the patient's size."""
    people = int(patients[-1]) + 1
    left_p43 = turn(LBBB_QRS_43.expand(people, -1, -1), 12, generator)
    late_p3 = turn(RBBB_LATE_3.expand(people, -1), 15, generator) * spread(generator, 1, 0.25, people, 1)
    size_p1 = spread(generator, 1.3, 0.4, people, 1)
    right_n1 = labels[:, RBBB, None]
    qrs_n43 = torch.where(labels[:, LBBB, None, None], left_p43[patients], qrs_n43)
    qrs_n43[:, S - Q] *= torch.where(right_n1, 0.5, 1.0)
    qrs_n43[:, LATE - Q] = torch.where(right_n1, late_p3[patients], qrs_n43[:, LATE - Q])
    return qrs_n43 * (size_p1[patients] / _loop_size(qrs_n43, timing))[..., None]


def _loop_size(qrs_n43: Tensor, timing: Timing) -> Tensor:
    """The largest length (n, 1) that the sum of Q, R, S and the late wave reaches."""
    grid = torch.linspace(-0.6, 0.6, 41, dtype=torch.double) * timing.qrs[:, None, None]
    bell = torch.exp(-0.5 * ((grid - timing.centre[:, Q:ST, None]) / timing.flank[:, Q:ST, :1]) ** 2)
    return torch.einsum("nwt,nwi->nti", bell, qrs_n43).norm(dim=-1).amax(1, keepdim=True)


def _repolarisation(t_n3: Tensor, labels: Tensor, patients: Tensor, generator: np.random.Generator) -> Tensor:
    """The T wave (n, 3), turned by a block or by T inversion, in the patient's size."""
    size_p1 = spread(generator, 0.36, 0.4, int(patients[-1]) + 1, 1)
    t_n3 = torch.where(labels[:, LBBB, None], LBBB_T_3 + 0.3 * t_n3, t_n3)
    t_n3 = normalize(t_n3 + labels[:, RBBB, None] * RBBB_T_3, dim=-1)
    return torch.where(labels[:, T_INVERSION, None], -turn(t_n3, 20, generator), t_n3) * size_p1[patients]


def _st_shift(t_n3: Tensor, labels: Tensor, generator: np.random.Generator) -> Tensor:
    """The ST shift (n, 3): a trace of T in everybody, an injury current with ST elevation."""
    n = len(labels)
    shift_n3 = uniform(generator, -0.03, 0.15, n, 1) * t_n3 + 0.02 * normal(generator, n, 3)
    for k, injury_3 in enumerate(INJURY_23):
        amount_n1 = spread(generator, 0.20, 0.35, n, 1).clamp(0.10, 0.45)
        shift_n3 += labels[:, STE_ANTERIOR + k, None] * amount_n1 * turn(injury_3.expand(n, 3), 12, generator)
    return shift_n3
