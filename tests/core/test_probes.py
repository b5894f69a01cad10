"""Probes: equal to scikit-learn and to obvious references, blind to test data, exact intervals, clear errors."""

import inspect
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.probes import few_labels, linear, solver
from jepa_lab.probes.few_labels import few_label
from jepa_lab.probes.knn import knn_probe
from jepa_lab.probes.linear import linear_probe
from jepa_lab.probes.summary import score_features


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, width=12, num_classes=4, spread=1.0, seed=0, centres=7):
    """Gaussian classes around fixed centres: labels cycle, so every class has its share."""
    centre = torch.randn(num_classes, width, generator=seeded(centres))
    y = torch.arange(n) % num_classes
    return centre[y] + spread * torch.randn(n, width, generator=seeded(seed)), y


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=seeded())
    x, y = x.float()[order], y[order]
    return x[:1000], y[:1000], x[1000:], y[1000:]


# Equal to outside implementations


def test_linear_probe_agrees_with_scikit_learn_on_digits(digits):
    from sklearn.linear_model import LogisticRegression

    train_x, train_y, test_x, test_y = digits
    score = linear_probe(*digits)
    fit = linear.fit_linear(train_x, train_y)
    z, t = ((x - fit.mean) / fit.std for x in (train_x, test_x))
    theirs = LogisticRegression(C=1 / (len(z) * score.l2), max_iter=2000, tol=1e-6).fit(z, train_y)
    assert score.value == pytest.approx(theirs.score(t, test_y), abs=0.005) and score.value > 0.9
    ours_p, theirs_p = fit(test_x).softmax(-1), torch.tensor(theirs.predict_proba(t))
    assert (ours_p - theirs_p).abs().max() < 0.02  # the same optimum, not just the same accuracy


@pytest.mark.parametrize("l2", linear.L2_GRID)
def test_every_l2_reaches_the_minimum_that_scikit_learn_finds(l2, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(400, spread=2.0)
    monkeypatch.setattr(linear, "L2_GRID", (l2,))
    fit = linear.fit_linear(x, y)
    z = (x - fit.mean) / fit.std
    theirs = LogisticRegression(C=1 / (len(z) * l2), max_iter=5000, tol=1e-8).fit(z, y)

    def objective(weight_DC, bias_C):
        return float(F.cross_entropy(z @ weight_DC + bias_C, y) + 0.5 * l2 * weight_DC.square().sum())

    best = objective(torch.tensor(theirs.coef_.T).float(), torch.tensor(theirs.intercept_).float())
    assert objective(fit.weight, fit.bias) == pytest.approx(best, rel=1e-4)


def test_knn_agrees_with_a_plain_search():
    (x, y), (t, u) = blobs(150, spread=2.0), blobs(60, spread=2.0, seed=1)
    mean, std = x.mean(0), x.std(0, correction=0)
    hits = 0
    for row, label in zip((t - mean) / std, u):
        similarity = F.cosine_similarity(row[None], (x - mean) / std)
        near = similarity.argsort(descending=True)[:7]
        hits += max(range(4), key=lambda c: ((y[near] == c).sum(), similarity[near][y[near] == c].sum())) == label
    assert knn_probe(x, y, t, u, k=7).value == pytest.approx(int(hits) / len(u))


def test_two_far_neighbours_outvote_a_near_one_whatever_the_length_of_the_features():
    half = torch.tensor([[1.0, 0.0], [0.3, 0.954], [0.3, -0.954]])
    x, y = torch.cat([half, -half]), torch.tensor([1, 0, 0, 1, 1, 1])
    assert knn_probe(x, y, torch.tensor([[100.0, 0.0]]), torch.tensor([0]), k=3).value == 1
    assert knn_probe(x, y, torch.tensor([[100.0, 0.0]]), torch.tensor([1]), k=1).value == 1


@pytest.mark.parametrize("scale", [(1.0, 1.0), (torch.tensor([0.1, 3.0]), 0.5)])
def test_the_solver_finds_the_minimum_of_a_parabola_at_any_scale_and_leaves_its_start_alone(scale):
    start = torch.tensor([5.0, -7.0]), torch.zeros(1)

    def parabola(weight, bias):
        gap, rest = weight - torch.tensor([1.0, 2.0]), bias + 3.0
        return 50 * gap[0] ** 2 + gap[1] ** 2 + rest.square().sum(), gap * torch.tensor([100.0, 2.0]), 2 * rest

    weight, bias = solver.minimise(parabola, start, scale, tolerance=1e-6)
    torch.testing.assert_close(torch.cat([weight, bias]), torch.tensor([1.0, 2.0, -3.0]), rtol=1e-4, atol=1e-4)
    assert torch.equal(start[0], torch.tensor([5.0, -7.0]))


# What is there is found, what is not there is not


def test_labels_without_relation_score_at_chance():
    x, t = torch.randn(400, 8, generator=seeded(0)), torch.randn(400, 8, generator=seeded(1))
    y, u = (torch.randint(4, (400,), generator=seeded(s)) for s in (2, 3))
    for score in score_features(x, y, t, u).values():
        assert 0.15 < score.value < 0.35


def test_collapsed_features_score_at_chance_instead_of_failing():
    x, y, t, u = torch.full((80, 16), 0.3), torch.arange(80) % 4, torch.full((40, 16), 0.3), torch.arange(40) % 4
    for score in score_features(x, y, t, u).values():
        assert score.value == pytest.approx(0.25)


def test_l2_is_chosen_to_generalise():
    wide = torch.randn(100, 80, generator=seeded())  # 80 numbers, one matters: weak l2 overfits
    assert linear.fit_linear(wide, (wide[:, 0] + torch.randn(100, generator=seeded(1)) > 0).long()).l2 >= 0.1
    a, b = torch.randn(2, 400, generator=seeded())  # the class hides in a small difference: strong l2 misses it
    assert linear.fit_linear(torch.stack([a, a + 0.05 * b], dim=1), (b > 0).long()).l2 <= 1e-3
    assert linear.fit_linear(*blobs(100, spread=0.01)).l2 == max(linear.L2_GRID)  # all are right: the strongest


# Nothing is fitted on test data


def test_other_test_data_changes_no_fitted_number(monkeypatch):
    fits, fit_linear = [], linear.fit_linear
    monkeypatch.setattr(linear, "fit_linear", lambda *a, **k: fits.append(fit_linear(*a, **k)) or fits[-1])
    (x, y), (t, u) = blobs(60), blobs(40, seed=1)
    for test_x, test_y in ((t, u), (100 * t + 5, u), (t[:21], u.flip(0)[:21])):
        linear_probe(x, y, test_x, test_y, seeded())
    assert len(fits) == 3
    for other in fits[1:]:
        for key, value in vars(fits[0]).items():
            assert torch.equal(torch.as_tensor(getattr(other, key)), torch.as_tensor(value)), key
    assert not [p for p in inspect.signature(fit_linear).parameters if "test" in p]


@given(cut=st.integers(1, 59), which=st.sampled_from(["linear", "knn", "few_label"]), scale=st.floats(0.1, 50))
@settings(max_examples=18, deadline=None)
def test_a_test_sample_never_changes_the_verdict_on_another(cut, which, scale):
    (x, y), (t, u) = blobs(60), blobs(60, seed=1)
    t = torch.cat([t[:cut], scale * t[cut:] + 1])  # statistics of the two parts differ widely
    score = {
        "linear": lambda t, u: linear_probe(x, y, t, u),
        "knn": lambda t, u: knn_probe(x, y, t, u, k=5),
        "few_label": lambda t, u: few_label(x, y, t, u, (3,), 4)[3],
    }[which]
    whole, first, second = score(t, u), score(t[:cut], u[:cut]), score(t[cut:], u[cut:])
    assert whole.value * 60 == pytest.approx(
        first.value * cut + second.value * (60 - cut), abs=0.26
    )  # a tie at most, of 4 draws


@given(seed=st.integers(0, 1000), width=st.integers(2, 10))
@settings(max_examples=10, deadline=None)
def test_scores_do_not_depend_on_units_of_the_features(seed, width):
    (x, y), (t, u) = blobs(100, width, spread=2.0, seed=seed), blobs(60, width, spread=2.0, seed=seed + 1)
    factor = torch.exp2(torch.randint(-8, 8, (width,), generator=seeded(seed)).float())  # exact in floating point
    ours, scaled = score_features(x, y, t, u), score_features(x * factor, y, t * factor, u)
    assert ours == scaled


# Few labels


def test_each_draw_has_the_right_number_of_different_samples_of_each_class():
    _, y = blobs(83)
    idx = few_labels.draw(y, 4, 6, 50, seeded())
    assert idx.shape == (50, 4, 6) and all((y[idx[:, c]] == c).all() for c in range(4))
    assert all(len(set(draw.flatten().tolist())) == 24 for draw in idx)
    assert len(set(idx.flatten().tolist())) == 83  # every sample can be drawn


def test_draws_solved_together_equal_draws_solved_alone():
    x, y = blobs(200, spread=2.0)
    idx = few_labels.draw(y, 4, 5, 6, seeded()).flatten(1)
    variance = x.var(dim=0)
    together, _ = solver.solve_classes(x[idx], y[idx], variance, solver.zero_start(x, 6, 4), 0.1, tolerance=1e-5)
    for s in range(6):
        alone, _ = solver.solve_classes(
            x[idx[s : s + 1]], y[idx[s : s + 1]], variance, solver.zero_start(x, 1, 4), 0.1, tolerance=1e-5
        )
        torch.testing.assert_close(alone[0], together[s], atol=2e-3, rtol=0)


def test_more_labels_help_and_each_score_lies_in_its_interval():
    (x, y), (t, u) = blobs(400, spread=2.5), blobs(300, spread=2.5, seed=1)
    curve = few_label(x, y, t, u, per_class=(1, 5, 50))
    assert curve[1].value < curve[5].value < curve[50].value
    assert all(s.low < s.value < s.high for s in curve.values())


# Reproducible, and safe to call from anywhere

ALL = {
    "scores": lambda x, y, t, u, g: score_features(x, y, t, u, seed=g.initial_seed() if g else 0),
    "few_label": lambda x, y, t, u, g: few_label(x, y, t, u, (1, 3), 3, g),
}


@pytest.mark.parametrize("name", ALL)
def test_equal_generators_give_equal_scores_and_global_randomness_is_untouched(name):
    data = (*blobs(120, spread=2.0), *blobs(50, spread=2.0, seed=1))
    before = torch.random.get_rng_state()
    assert ALL[name](*data, seeded(3)) == ALL[name](*data, seeded(3))
    assert ALL[name](*data, None) == ALL[name](*data, None)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_probes_work_on_graphs_half_precision_and_without_grad_mode(name):
    x, y, t, u = (*blobs(120, spread=2.0), *blobs(50, spread=2.0, seed=1))
    expected = ALL[name](x, y, t, u, seeded())
    with torch.no_grad():
        assert ALL[name](x, y, t, u, seeded()) == expected
    assert ALL[name](x.clone().requires_grad_(), y, t.clone().requires_grad_(), u, seeded()) == expected
    ALL[name](x.bfloat16(), y, t.bfloat16(), u, seeded())


def test_importing_probes_loads_neither_scikit_learn_nor_scipy():
    code = "import sys, jepa_lab.probes; sys.exit(bool({'sklearn', 'scipy', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Bad input

X, Y = blobs(40)
T, U = blobs(20, seed=1)
NAN = X.index_fill(0, torch.tensor([3]), math.nan)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:-1], T, U), "differ in"),
        ((X, Y, T, U[:-1]), "differ in"),
        ((X, Y, T[:, :5], U), "train_x and test_x differ"),
        ((NAN, Y, T, U), "train_x holds NaN"),
        ((X, Y, NAN[:20], U), "test_x holds NaN"),
        ((X, Y - 1, T, U), "label -1"),
        ((X, Y, T, U + 1), "training has 0 .. 3"),
        ((X, Y, T, U - 1), "test_y holds labels -1"),
        ((X, torch.zeros_like(Y), T, torch.zeros_like(U)), "one class only"),
        ((X, Y.float(), T, U), "integer labels"),
        ((X, Y, T, U.bool()), "integer labels"),
        ((X.long(), Y, T, U), "floating point"),
        ((X[:, None], Y, T, U), r"\[n D\]"),
        ((X, Y[:, None], T, U), r"\[n\]"),
        ((X, Y, T[:0], U[:0]), "non-empty"),
        ((X.to("meta"), Y, T, U), "one device"),
    ],
)
@pytest.mark.parametrize("probe", [linear_probe, knn_probe, few_label], ids=lambda p: p.__name__)
def test_bad_input_is_one_value_error_that_names_it(probe, data, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(probe)(*data)  # without the suite's shape checks: the errors users see


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few_label(X, Y, T, U, (11,)), "fewer than per_class=11"),
        (lambda: few_label(X, Y, T, U, ()), "per_class"),
        (lambda: few_label(X, Y, T, U, (0, 1)), "per_class"),
        (lambda: few_label(X, Y, T, U, draws=1), "draws=1"),
        (lambda: few_label(X[Y != 1], Y[Y != 1], T, U, (1,)), "class 1 has 0"),
        (lambda: knn_probe(X, Y, T, U, k=41), "k=41"),
        (lambda: knn_probe(X, Y, T, U, k=0), "k=0"),
        (lambda: linear_probe(X[:4], Y[:4], T, U), "at least 5"),
    ],
)
def test_impossible_requests_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
