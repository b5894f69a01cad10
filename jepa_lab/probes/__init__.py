"""What is in the latents? Frozen features in, one score with its interval out.

Every probe takes (train_x, train_y, test_x, test_y). Two rules hold throughout: features are standardised with
the statistics of the training features, and settings are chosen on a part of the training set. The fitting function
`fit_linear` has no argument through which test data could enter.
Randomness comes from the generator that is passed (default: seed 0), so equal input gives equal scores.

Bad input is one ValueError: lengths or widths that differ, NaN or Inf, labels outside the classes of the training
set, a single class, too few samples.
"""

from jepa_lab.probes.features import embed, visible_views
from jepa_lab.probes.few_labels import few_label
from jepa_lab.probes.knn import knn_probe
from jepa_lab.probes.linear import LinearFit, fit_linear, linear_probe
from jepa_lab.probes.scores import Score
from jepa_lab.probes.summary import score_features

__all__ = [
    "LinearFit",
    "Score",
    "embed",
    "few_label",
    "fit_linear",
    "knn_probe",
    "linear_probe",
    "score_features",
    "visible_views",
]
