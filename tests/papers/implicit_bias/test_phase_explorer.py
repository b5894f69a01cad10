"""The phase explorer: the page integrates like the Python theory, refuses what it refuses, and works in a browser
alone.
"""

import json

import pytest
import torch
from explorer_page import explorer_pages, faults, fits, javascript

from jepa_lab.papers.implicit_bias import explorer, theory

GRID = [
    (o, lam, rho, depth, eps)
    for o in ("jepa", "mae")
    for lam, rho in ((1.0, 0.5), (0.6, 0.9), (0.3, 1.6))
    for depth in (1, 2, 3, 5, 8)
    for eps in (1e-2, 1e-4, 1e-7)
    if eps < 0.5 * min(rho**depth, rho ** (depth / (depth + 1)))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """The value of an expression over the explorer's module ``m``."""
    return javascript(explorer.SCRIPT, tmp_path_factory.mktemp("module"), request)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_page_finds_the_critical_times_of_python_to_a_millionth(run):
    found = run(f"{json.dumps(GRID)}.map(([o, lam, rho, L, eps]) => m.criticalTime(o, lam, rho, L, eps))")
    for case, t in zip(GRID, found, strict=True):
        o, lam, rho, depth, eps = case
        assert t == pytest.approx(float(theory.critical_time(o, one(lam), one(rho), depth, eps)), rel=1e-6), case


@pytest.mark.parametrize("objective", ["jepa", "mae"])
def test_the_page_draws_the_curves_of_python(run, objective):
    found = run(f'm.learningCurve("{objective}", 0.7, 0.6, 3, 1e-3, 0.99, 161)')
    tau, share = theory.learning_curve(objective, one(0.7), one(0.6), 3, 1e-3, 0.99, 161)
    assert torch.allclose(torch.tensor(found["tau"], dtype=torch.float64), tau[0], rtol=1e-6)
    assert torch.allclose(torch.tensor(found["s"], dtype=torch.float64), share[0], rtol=1e-6)


@pytest.mark.parametrize(
    "lam, rho, depth, eps", [(1.0, 0.5, 4, 0.04), (0.0, 0.5, 2, 1e-3), (1.0, -1.0, 2, 1e-3), (1.0, 0.5, 3, 1e-3)]
)
def test_the_page_refuses_what_python_refuses(run, lam, rho, depth, eps):
    reason = run(f"m.refusal({lam}, {rho}, {depth}, {eps})")
    try:
        theory.check(one(lam), one(rho), depth, eps)
        assert reason == ""
    except ValueError:
        assert reason != ""


def test_the_page_orders_features_and_says_when_orders_are_opposite(run):
    found = run("m.solve([{lam: 0.8, rho: 1.2}, {lam: 0.9, rho: 0.9}, {lam: 1, rho: 0.6}], 4, 1e-2)")
    order = {objective: [f["index"] for f in features] for objective, features in found["order"].items()}
    assert order == {"jepa": [0, 1, 2], "mae": [2, 1, 0]}
    assert found["tau"] == -1


def test_start_values_that_the_page_cannot_show_are_refused():
    for bad in (dict(features=[]), dict(depth=9), dict(log_eps=0.0), dict(features=[(-1.0, 0.5)])):
        with pytest.raises(ValueError):
            explorer.explorer_start(**bad)


def test_the_widget_carries_the_script_and_the_start():
    widget = explorer.phase_explorer([(1.0, 0.5)], depth=2, log_eps=-2)
    assert widget.data == {"depth": 2, "log_eps": -2, "features": [[1.0, 0.5]]} and "learningCurve" in widget._esm


def test_the_figure_with_a_kernel_names_both_orders_and_takes_simulated_points():
    lam, rho = torch.tensor([[1.0, 0.6], [0.5, 0.9]], dtype=torch.float64)
    fig = explorer.curves_figure(lam, rho, 1, 0.05, explorer.matrices(lam, rho, 1, 0.05))
    assert len(fig.data) == 8 and "JEPA learns in the order" in fig.layout.meta["description"]


def test_the_live_explorer_says_why_it_refuses_and_draws_again_when_it_can(capsys):
    depth, log_eps, pairs, simulate, _ = explorer.live_phase_explorer().children
    pairs.value = "1.0, -0.4"
    assert "rho must be positive" in capsys.readouterr().out
    pairs.value = "1.0, 0.4; 0.6, 0.9"
    assert "must be" not in capsys.readouterr().out
    depth.value = 6
    assert "learned at time 0" in capsys.readouterr().out


@pytest.fixture(scope="module")
def page_for(tmp_path_factory, browser_path):
    start, folder = explorer.explorer_start(), tmp_path_factory.mktemp("phase")
    with explorer_pages(folder, browser_path, explorer.SCRIPT, start, ".jl-p-curve") as open_at:
        yield open_at


@pytest.fixture
def seen(page_for):
    opened = page_for(390)
    yield opened
    assert opened.trouble == []
    opened.page.context.close()


def orders(seen) -> list[str]:
    return seen.page.locator(".jl-p-order").all_inner_texts()


def test_depth_turns_the_order_on_a_phone(seen):
    assert orders(seen) == ["JEPA learns A then B", "MAE learns A then B"]
    seen.page.get_by_label("Encoder depth L").fill("5")
    assert orders(seen) == ["JEPA learns B then A", "MAE learns A then B"]
    assert "Opposite orders" in seen.page.locator(".jl-p-verdict").inner_text()
    assert fits(seen.page, 390)


def test_features_move_by_drag_and_by_keyboard_and_can_be_added_and_removed(seen):
    page = seen.page
    before = page.locator(".jl-x-table tbody tr").first.inner_text()
    handle = page.locator(".jl-p-handle").first.bounding_box()
    page.mouse.move(handle["x"] + 12, handle["y"] + 12)
    page.mouse.down()
    page.mouse.move(handle["x"] - 30, handle["y"] - 40, steps=4)
    page.mouse.up()
    dragged = page.get_by_label("λ of feature A").input_value()
    assert float(dragged) < 1.0 and page.locator(".jl-x-table tbody tr").first.inner_text() != before
    page.get_by_label("ρ of feature A").focus()
    page.keyboard.press("ArrowUp")
    page.get_by_label("λ of feature A").fill("2")
    assert orders(seen)[1] == "MAE learns A then B"
    page.get_by_role("button", name="Add a feature").click()
    assert page.locator(".jl-p-handle").count() == 3
    page.get_by_role("button", name="Remove feature A").click()
    assert page.locator(".jl-p-handle").count() == 2


def test_a_feature_that_is_learned_at_the_start_is_named_not_drawn(seen):
    seen.page.get_by_label("Encoder depth L").fill("8")
    assert "counts as learned at time 0" in seen.page.locator(".jl-p-refused").inner_text()
    assert seen.page.locator(".jl-p-curve").count() == 2  # B alone, once per objective


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_explorer_passes_the_accessibility_rules(page_for, theme):
    assert faults(page_for(390, theme).page) == []
