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

from jepa_lab.probes import linear as probes
from jepa_lab.probes import scores
from jepa_lab.probes.linear import (
    attentive_probe,
    few_label,
    knn_probe,
    linear_probe,
    patch_probe,
    ridge_r2,
    score_features,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, width=12, num_classes=4, spread=1.0, seed=0, centres=7):
    """Gaussian classes around fixed centres: labels cycle, so every class has its share."""
    centre = torch.randn(num_classes, width, generator=seeded(centres))
    y = torch.arange(n) % num_classes
    return centre[y] + spread * torch.randn(n, width, generator=seeded(seed)), y


def tokens(n, seed=0, num_tokens=9, width=8):
    """The class of a sample is written into one token at a random place; a marker channel says which."""
    generator = seeded(seed)
    y = torch.arange(n) % 4
    x = torch.randn(n, num_tokens, width, generator=generator)
    place = torch.randint(num_tokens, (n,), generator=generator)
    x[torch.arange(n), place, :4] = 3.0 * F.one_hot(y, 4)
    x[..., 7] = 0.1 * x[..., 7]
    x[torch.arange(n), place, 7] = 6.0
    return x, y


def dense(n, seed=0, num_tokens=6, width=5):
    """Token labels that a linear map of the token predicts up to noise."""
    x = torch.randn(n, num_tokens, width, generator=seeded(seed))
    logits = x @ torch.randn(width, 3, generator=seeded(99))
    return x, (logits + 0.5 * torch.randn(logits.shape, generator=seeded(seed + 1))).argmax(-1)


def line(n, seed=0, noise=0.1, width=6, targets=2):
    x = torch.randn(n, width, generator=seeded(seed))
    y = x @ torch.randn(width, targets, generator=seeded(5)) + noise * torch.randn(
        n, targets, generator=seeded(seed + 1)
    )
    return x, y + 3.0


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
    fit = probes.fit_linear(train_x, train_y)
    z, t = ((x - fit.mean) / fit.std for x in (train_x, test_x))
    theirs = LogisticRegression(C=1 / (len(z) * score.l2), max_iter=2000, tol=1e-6).fit(z, train_y)
    assert score.value == pytest.approx(theirs.score(t, test_y), abs=0.005) and score.value > 0.9
    ours_p, theirs_p = fit(test_x).softmax(-1), torch.tensor(theirs.predict_proba(t))
    assert (ours_p - theirs_p).abs().max() < 0.02  # the same optimum, not just the same accuracy


@pytest.mark.parametrize("l2", probes.L2_GRID)
def test_every_l2_reaches_the_minimum_that_scikit_learn_finds(l2, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(400, spread=2.0)
    monkeypatch.setattr(probes, "L2_GRID", (l2,))
    fit = probes.fit_linear(x, y)
    z = (x - fit.mean) / fit.std
    theirs = LogisticRegression(C=1 / (len(z) * l2), max_iter=5000, tol=1e-8).fit(z, y)

    def objective(weight_DC, bias_C):
        return float(F.cross_entropy(z @ weight_DC + bias_C, y) + 0.5 * l2 * weight_DC.square().sum())

    best = objective(torch.tensor(theirs.coef_.T).float(), torch.tensor(theirs.intercept_).float())
    assert objective(fit.weight, fit.bias) == pytest.approx(best, rel=1e-4)


def test_ridge_agrees_with_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    (x, y), (t, u) = line(120, noise=2.0), line(80, seed=10, noise=2.0)
    score, (mean, std) = ridge_r2(x, y, t, u), (x.mean(0), x.std(0, correction=0))
    theirs = Ridge(alpha=score.l2 * len(x)).fit((x - mean) / std, y)
    assert score.value == pytest.approx(r2_score(u, theirs.predict((t - mean) / std)), abs=1e-5)


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


def test_attention_without_keys_and_values_equals_cross_attention_with_them():
    generator = seeded()
    x, query, w_key, w_value, w_out = (
        torch.randn(s, generator=generator) for s in ((3, 5, 8), (8,), (8, 8), (8, 8), (8, 4))
    )
    expected = F.scaled_dot_product_attention(query.expand(3, 1, 8), x @ w_key.T, x @ w_value.T) @ w_out
    folded = probes.AttentiveFit(
        torch.zeros(8), torch.ones(8), (query @ w_key)[None] / 8**0.5, (w_value.T @ w_out)[None], torch.zeros(4)
    )
    torch.testing.assert_close(folded(x), expected[:, 0], rtol=1e-4, atol=1e-4)


def test_patch_scores_equal_a_count_over_all_tokens(monkeypatch):
    fits, fit_linear, split, groups = [], probes.fit_linear, probes._split, []
    monkeypatch.setattr(probes, "fit_linear", lambda *a, **k: fits.append(fit_linear(*a, **k)) or fits[-1])
    monkeypatch.setattr(probes, "_split", lambda *a: groups.append(a[3]) or split(*a))
    (x, y), (t, u) = dense(60), dense(30, seed=3)
    found = patch_probe(x, y, t, u)
    pred = fits[0](t).argmax(-1)
    iou = [int(((pred == c) & (u == c)).sum()) / int(((pred == c) | (u == c)).sum()) for c in range(3)]
    assert found["miou"].value == pytest.approx(sum(iou) / 3)
    assert found["accuracy"].value == pytest.approx(float((pred == u).float().mean()))
    for score in found.values():
        assert score.low < score.value < score.high and score.n_test == 30
    assert groups == [6]  # an image's tokens are held out together


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count_in_miou():
    y = torch.arange(120).reshape(20, 6) % 3
    x = 5.0 * F.one_hot(y, 3)
    seen = y.clamp(max=1)
    assert patch_probe(x, y, 5.0 * F.one_hot(seen, 3), seen)["miou"].value == 1


# What is there is found, what is not there is not


def test_ridge_finds_a_linear_target_and_nothing_in_noise():
    (x, y), (t, u) = line(200, noise=0.0), line(100, seed=9, noise=0.0)
    assert ridge_r2(x, y, t, u).value > 0.999
    unrelated = ridge_r2(x, torch.randn(200, 2, generator=seeded(3)), t, torch.randn(100, 2, generator=seeded(4)))
    assert unrelated.value < 0.05 and unrelated.low < 0


def test_attention_finds_the_one_token_that_mean_pooling_dilutes():
    (x, y), (t, u) = tokens(800), tokens(400, seed=1)
    pooled = linear_probe(x.mean(1), y, t.mean(1), u)
    assert attentive_probe(x, y, t, u, seeded()).low > pooled.high + 0.1
    query_HD = probes.fit_attentive(x, y, seeded(), epochs=1).query
    assert (query_HD[0] - query_HD[1]).norm() > 0.1  # heads that start alike stay alike


def test_labels_without_relation_score_at_chance():
    x, t = torch.randn(400, 8, generator=seeded(0)), torch.randn(400, 8, generator=seeded(1))
    y, u = (torch.randint(4, (400,), generator=seeded(s)) for s in (2, 3))
    for score in score_features(x, y, t, u).values():
        assert 0.15 < score.value < 0.35


def test_collapsed_features_score_at_chance_instead_of_failing():
    x, y, t, u = torch.full((80, 16), 0.3), torch.arange(80) % 4, torch.full((40, 16), 0.3), torch.arange(40) % 4
    for score in score_features(x, y, t, u).values():
        assert score.value == pytest.approx(0.25)
    assert ridge_r2(x, torch.randn(80, 1, generator=seeded()), t, torch.randn(40, 1, generator=seeded(1))).value < 0.05


def test_l2_is_chosen_to_generalise():
    wide = torch.randn(100, 80, generator=seeded())  # 80 numbers, one matters: weak l2 overfits
    assert probes.fit_linear(wide, (wide[:, 0] + torch.randn(100, generator=seeded(1)) > 0).long()).l2 >= 0.1
    a, b = torch.randn(2, 400, generator=seeded())  # the class hides in a small difference: strong l2 misses it
    assert probes.fit_linear(torch.stack([a, a + 0.05 * b], dim=1), (b > 0).long()).l2 <= 1e-3
    assert probes.fit_linear(*blobs(100, spread=0.01)).l2 == max(probes.L2_GRID)  # all are right: the strongest


# Nothing is fitted on test data

CASES = {
    "linear": (linear_probe, "fit_linear", blobs),
    "ridge": (ridge_r2, "fit_ridge", line),
    "attentive": (attentive_probe, "fit_attentive", tokens),
    "patch": (patch_probe, "fit_linear", dense),
}


@pytest.mark.parametrize("name", CASES)
def test_other_test_data_changes_no_fitted_number(name, monkeypatch):
    probe, fit_name, make = CASES[name]
    fits, fit = [], getattr(probes, fit_name)
    monkeypatch.setattr(probes, fit_name, lambda *a, **k: fits.append(fit(*a, **k)) or fits[-1])
    x, y = make(60)
    t, u = make(40, seed=1)
    settings = {"epochs": 2} if name == "attentive" else {}
    for test_x, test_y in ((t, u), (100 * t + 5, u), (t[:21], u.flip(0)[:21])):
        probe(x, y, test_x, test_y, seeded(), **settings)
    assert len(fits) == 3
    for other in fits[1:]:
        for key, value in vars(fits[0]).items():
            assert torch.equal(torch.as_tensor(getattr(other, key)), torch.as_tensor(value)), key
    assert not [p for p in inspect.signature(fit).parameters if "test" in p]


@given(
    cut=st.integers(1, 59), which=st.sampled_from(["linear", "knn", "few_label", "attentive"]), scale=st.floats(0.1, 50)
)
@settings(max_examples=24, deadline=None)
def test_a_test_sample_never_changes_the_verdict_on_another(cut, which, scale):
    make = tokens if which == "attentive" else blobs
    (x, y), (t, u) = make(60), make(60, seed=1)
    t = torch.cat([t[:cut], scale * t[cut:] + 1])  # statistics of the two parts differ widely
    score = {
        "linear": lambda t, u: linear_probe(x, y, t, u),
        "knn": lambda t, u: knn_probe(x, y, t, u, k=5),
        "few_label": lambda t, u: few_label(x, y, t, u, (3,), 4)[3],
        "attentive": lambda t, u: attentive_probe(x, y, t, u, epochs=1),
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


def test_the_held_out_part_keeps_the_tokens_of_an_image_together():
    fit_n, held_n = probes._split(60, seeded(), torch.device("cpu"), group=6)
    assert sorted(torch.cat([fit_n, held_n]).tolist()) == list(range(60)) and len(held_n) == 12
    assert not set((fit_n // 6).tolist()) & set((held_n // 6).tolist())


# Few labels


def test_each_draw_has_the_right_number_of_different_samples_of_each_class():
    _, y = blobs(83)
    idx = probes._draw(y, 4, 6, 50, seeded())
    assert idx.shape == (50, 4, 6) and all((y[idx[:, c]] == c).all() for c in range(4))
    assert all(len(set(draw.flatten().tolist())) == 24 for draw in idx)
    assert len(set(idx.flatten().tolist())) == 83  # every sample can be drawn


def test_draws_solved_together_equal_draws_solved_alone():
    x, y = blobs(200, spread=2.0)
    idx = probes._draw(y, 4, 5, 6, seeded()).flatten(1)
    variance = x.var(dim=0)
    together, _ = probes._solve(x[idx], y[idx], variance, probes._zero(x, 6, 4), 0.1, tolerance=1e-5)
    for s in range(6):
        alone, _ = probes._solve(
            x[idx[s : s + 1]], y[idx[s : s + 1]], variance, probes._zero(x, 1, 4), 0.1, tolerance=1e-5
        )
        torch.testing.assert_close(alone[0], together[s], atol=2e-3, rtol=0)


def test_more_labels_help_and_the_interval_over_draws_is_students():
    (x, y), (t, u) = blobs(400, spread=2.5), blobs(300, spread=2.5, seed=1)
    curve = few_label(x, y, t, u, per_class=(1, 5, 50))
    assert curve[1].value < curve[5].value < curve[50].value
    assert all(s.low < s.value < s.high for s in curve.values())
    known = scores.over_draws([0.5, 0.6, 0.7], 10)
    assert (known.value, known.high - known.value) == (pytest.approx(0.6), pytest.approx(4.302653 * 0.1 / math.sqrt(3)))


# Intervals


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(5, 10, 0.236593, 0.763407), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (820, 1000, 0.794978, 0.842573)],
)
def test_wilson_intervals_equal_those_of_scipy(correct, n, low, high):
    assert scores.wilson(correct, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_the_bootstrap_of_a_mean_equals_its_normal_interval():
    values = torch.randn(500, generator=seeded(), dtype=torch.float64)
    score = scores.bootstrap(lambda w: w @ values / w.sum(1), 500, values, seeded(1), l2=0.1, resamples=4000)
    half = 1.96 * float(values.std()) / math.sqrt(500)
    assert score.value == pytest.approx(float(values.mean()))
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.06)


# Reproducible, and safe to call from anywhere

ALL = {
    "scores": lambda x, y, t, u, g: score_features(x, y, t, u, g),
    "few_label": lambda x, y, t, u, g: few_label(x, y, t, u, (1, 3), 3, g),
    "ridge": lambda x, y, t, u, g: ridge_r2(x, y[:, None] + 0.5, t, u[:, None] + 0.5, g),
    "attentive": lambda x, y, t, u, g: attentive_probe(x[:, None], y, t[:, None], u, g, epochs=2),
    "patch": lambda x, y, t, u, g: patch_probe(x[:, None], y[:, None], t[:, None], u[:, None], g),
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
        (lambda: ridge_r2(X, torch.ones(40, 1), T, torch.randn(20, 1)), "train_y is constant in target"),
        (lambda: ridge_r2(X, torch.randn(40, 1), T, torch.ones(20, 1)), "test_y is constant in target"),
        (lambda: ridge_r2(X, NAN, T, T), "train_y must be finite"),
        (lambda: inspect.unwrap(ridge_r2)(X, X, T, T[:, :3]), "12 targets, test_y 3"),
        (lambda: inspect.unwrap(ridge_r2)(X, X[:, 0], T, T[:, 0]), r"\[n T\]"),
        (lambda: inspect.unwrap(attentive_probe)(X, Y, T, U), r"\[n N D\]"),
        (lambda: attentive_probe(X[:, None], Y, T[:, None], U, heads=0), "heads=0"),
        (lambda: inspect.unwrap(patch_probe)(X[:, None], Y, T[:, None], U), r"\[n N\]"),
        (lambda: patch_probe(X[:4, None], Y[:4, None], T[:, None], U[:, None]), "at least 5"),
    ],
)
def test_impossible_requests_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
