"""On Apple's GPU, without float64 and eigenvalues, every metric and every probe gives what it gives on the CPU."""

import pytest
import torch
from apple import apple, to_apple

from jepa_lab import diagnostics
from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.papers.implicit_bias import paper as implicit_bias
from jepa_lab.probes.few_labels import few_label
from jepa_lab.probes.knn import knn_probe
from jepa_lab.probes.linear import linear_probe

X = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
BOTH = torch.stack([Y == 0, Y == 1], 1)
VIEWS = X.view(15, 4, 8)

USES = {
    "panel": lambda x, y, both, views: list(diagnostics.panel(x, views).values()),
    "few_label": lambda x, y, both, views: [few_label(x, y, x, y, (5,), 3)[5].value],
    "linear_probe": lambda x, y, both, views: [linear_probe(x, y, x, y).value],
    "knn_probe": lambda x, y, both, views: [knn_probe(x, y, x, y, k=5).value],
    "macro_auc": lambda x, y, both, views: [float(multilabel.macro_auc(x[:, :2], both))],
    "auc_score": lambda x, y, both, views: [multilabel.auc_score(x[:, :2], both, patients=y).low],
    "fit_labels": lambda x, y, both, views: multilabel.fit_labels(x, both)(x).cpu().flatten().tolist(),
}


@pytest.mark.parametrize("name", USES)
def test_apples_gpu_gives_the_numbers_of_the_cpu(name):
    expected = USES[name](X, Y, BOTH, VIEWS)
    with apple():
        found = USES[name](*map(to_apple, (X, Y, BOTH, VIEWS)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_stand_in_refuses_what_apples_gpu_refuses():
    with apple():
        assert to_apple(X).cpu().double().dtype == torch.float64
        with pytest.raises(TypeError, match="float64"):
            to_apple(X).double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device="mps")
        with pytest.raises(NotImplementedError, match="eig"):
            torch.linalg.eigh(to_apple(X).mT @ to_apple(X))
        with pytest.raises(RuntimeError, match="same device"):
            to_apple(X) + X


def test_the_chapter_that_computes_in_float64_refuses_apples_gpu_by_name():
    with pytest.raises(ValueError, match=r"float64, which Apple's GPU \(mps\) does not have: choose cpu"):
        implicit_bias.choose_device("mps")
