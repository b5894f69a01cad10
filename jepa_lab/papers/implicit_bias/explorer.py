"""The phase explorer of chapter 10: which feature is learned first? In the page by JavaScript, live on the Python
theory, and as plotly figures.

plotly and ipywidgets are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from jepa_lab import figures, widgets
from jepa_lab.papers.implicit_bias import nets, theory
from jepa_lab.papers.implicit_bias.paper import OBJECTIVES

SCRIPT = Path(__file__).with_suffix(".js")
START = ((1.0, 0.4), (0.6, 0.9))  # (lam, rho): a noisy and a clean feature


def explorer_start(features: Sequence[tuple[float, float]] = START, depth: int = 3, log_eps: float = -3.0) -> dict:
    """What the page's explorer starts with: up to 8 pairs (lam, rho), depth 1 to 8, log10 of eps from -7 to -1."""
    if not 1 <= len(features) <= 8:
        raise ValueError(f"the explorer holds 1 to 8 features, got {len(features)}")
    if not 1 <= depth <= 8 or not -7 <= log_eps <= -1:
        raise ValueError(f"depth must be 1 to 8 and log_eps -7 to -1; got {depth} and {log_eps}")
    lam, rho = torch.tensor(features, dtype=torch.float64).T
    theory.check(lam, rho, depth)
    return {"depth": depth, "log_eps": log_eps, "features": [list(map(float, pair)) for pair in features]}


def phase_explorer(features: Sequence[tuple[float, float]] = START, depth: int = 3, log_eps: float = -3.0):
    """The explorer as a widget that needs no kernel: depth, eps, movable features, both objectives' curves and orders.

    The arguments are those of `explorer_start`.
    """
    return widgets.show(SCRIPT, explorer_start(features, depth, log_eps))


# ---- figures ---------------------------------------------------------------------------------------


def _side_by_side(**options):
    """An empty figure with a plot for JEPA beside one for MAE."""
    from plotly.subplots import make_subplots

    titles = [objective.upper() for objective in OBJECTIVES]
    return make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1, **options)


def _finish_curves(fig, description: str):
    """Axis titles, size and look of learning curves; the legend stands above both plots."""
    fig.update_xaxes(title=dict(text="time τ"), rangemode="tozero")
    fig.update_layout(height=400, yaxis_title=dict(text="share of the fixed point"))
    figures.apply_theme(fig, description)
    return fig.update_layout(margin=dict(t=110), legend=dict(y=1.0, yref="container", yanchor="top"))


def _colours(count: int) -> Sequence[str]:
    """A colour per feature: the palette for a few, a graded scale for a family."""
    from plotly.colors import sample_colorscale

    if count <= 5:
        return figures.PALETTE
    return sample_colorscale("Viridis", [0.15 + 0.7 * i / (count - 1) for i in range(count)])


def curves_figure(lam: Tensor, rho: Tensor, depth: int, eps: float, simulated: Mapping | None = None):
    """JEPA and MAE side by side: share of the fixed point over tau, exact (lines) and, if given, simulated (dots).

    `simulated` is what `matrices` returns.
    """
    from plotly.graph_objects import Scatter

    fig, words = _side_by_side(), []
    names = [f"λ {float(a):.3g}, ρ {float(b):.3g}" for a, b in zip(lam, rho)]
    in_legend = range(len(names)) if len(names) <= 5 else (0, len(names) - 1)  # of a graded family the ends are enough
    for col, objective in enumerate(OBJECTIVES, 1):
        tau, share = theory.learning_curve(objective, lam, rho, depth, eps, last=0.99, points=121)
        for i, (name, colour) in enumerate(zip(names, _colours(len(names)))):
            group = dict(name=name, legendgroup=name)
            shown = col == 1 and i in in_legend
            line = dict(mode="lines", showlegend=shown, line=dict(color=colour, width=2))
            fig.add_trace(Scatter(x=tau[i].tolist(), y=share[i].tolist(), **group, **line), 1, col)
            if simulated:
                times, progress = simulated[objective]
                dots = dict(mode="markers", showlegend=False, marker=dict(color=colour, size=5))
                group["name"] = f"{name}, simulated"
                fig.add_trace(Scatter(x=times.tolist(), y=progress[:, i].tolist(), **group, **dots), 1, col)
        first = theory.critical_time(objective, lam, rho, depth, eps).argsort().tolist()
        words.append(f"{objective.upper()} learns in the order {', then '.join(names[i] for i in first)}")
    fig.update_yaxes(range=[0, 1.02])
    return _finish_curves(fig, f"Learning curves at depth {depth}, eps {eps:g}. {'. '.join(words)}.")


def _group_traces(name: str, tau: Tensor, group_TS: Tensor, showlegend: bool) -> list:
    """Mean over seeds as a line over the seeds' range as a band."""
    from plotly.graph_objects import Scatter

    low, high = group_TS.amin(1), group_TS.amax(1)
    band = Scatter(
        x=torch.cat([tau, tau.flip(0)]).tolist(),
        y=torch.cat([high, low.flip(0)]).tolist(),
        fill="toself",
        line=dict(width=0),
        opacity=0.3,
        fillcolor=figures.colour(name),
        mode="lines",
        showlegend=False,
        hoverinfo="skip",
        name=f"{name}, range",
    )
    line = Scatter(
        x=tau.tolist(),
        y=group_TS.mean(1).tolist(),
        name=f"{name} features",
        showlegend=showlegend,
        line=dict(color=figures.colour(name), dash=figures.dash(name), width=2.5),
        mode="lines",
    )
    return [band, line]


def group_figure(simulations: Mapping[str, nets.Simulation], depth: int):
    """Mean share learned over seeds with its range, clean (first half) and noisy features, JEPA beside MAE.

    `simulations` maps each objective to its simulation; time is tau.
    """
    fig, words = _side_by_side(), []
    for col, (objective, sim) in enumerate(simulations.items(), 1):
        index = sim.depths.index(depth)
        half = sim.progress.shape[-1] // 2
        shown = torch.linspace(0, len(sim.times) - 1, 80).long()
        tau, progress_TSD = depth * sim.times[shown, index], sim.progress[shown, index]
        for name, part in (("clean", slice(0, half)), ("noisy", slice(half, None))):
            for trace in _group_traces(name, tau, progress_TSD[..., part].mean(-1), col == 1):
                fig.add_trace(trace, 1, col)
            when = float(depth * sim.critical[index][:, part].mean())
            words.append(f"{objective.upper()} {name}: half learned at tau {when:.4g}")
    fig.update_yaxes(rangemode="tozero")
    return _finish_curves(fig, f"Learning curves at depth {depth}. {'; '.join(words)}.")


def _rounded_log2(table: Tensor) -> list[list[float | None]]:
    return [[round(v, 3) if v == v else None for v in row] for row in table.log2().tolist()]


def phase_map(depths: Sequence[int], log_eps: Sequence[float], ratio: Mapping[str, Tensor]):
    """Which of two features is first over depth and eps: log2 of t*_noisy / t*_clean, [L, E] per objective.

    A cell that is nan stays blank: the theory refuses that pair of depth and eps.
    """
    from plotly.graph_objects import Heatmap

    fig, words = _side_by_side(shared_yaxes=True), []
    colours = dict(zmid=0, zmin=-1.2, zmax=1.2, colorscale="PuOr")
    bar = dict(thickness=12, tickvals=[-1, 0, 1], ticktext=["noisy first", "together", "clean first"])
    for col, objective in enumerate(OBJECTIVES, 1):
        cells = Heatmap(
            z=_rounded_log2(ratio[objective]),
            x=[round(float(e), 3) for e in log_eps],
            y=list(depths),
            xgap=1,
            ygap=1,
            name=objective.upper(),
            showscale=col == 2,
            hovertemplate="depth %{y}, ε 10^%{x:.2f}<br>log2 of the ratio: %{z}<extra></extra>",
            colorbar=bar,
            **colours,
        )
        fig.add_trace(cells, 1, col)
        known = ratio[objective][~ratio[objective].isnan()]
        words.append(f"{objective.upper()}: clean first in {int((known > 1).sum())} of {len(known)} cells")
    fig.update_xaxes(title=dict(text="log10 of ε"))
    fig.update_layout(height=400, yaxis_title=dict(text="encoder depth L"))
    blank = "Blank: eps is not below half of the smallest fixed point."
    return figures.apply_theme(fig, f"Two maps over depth and eps. {'; '.join(words)}. {blank}")


# ---- with a kernel ---------------------------------------------------------------------------------


def matrices(lam: Tensor, rho: Tensor, depth: int, eps: float) -> dict:
    """The same features trained as matrices: per objective (tau [T], share of the fixed point [T, D]), 25 points."""
    out = {}
    for objective in OBJECTIVES:
        sim = nets.simulate(
            objective,
            lam,
            rho,
            (depth,),
            torch.Generator().manual_seed(0),
            eps=eps,
            fraction=0.5,
            step_fraction=0.08,
            num_seeds=1,
            num_records=25,
        )
        out[objective] = depth * sim.times[:, 0], sim.progress[:, 0, 0]
    return out


def live_phase_explorer(features: Sequence[tuple[float, float]] = START):
    """The explorer on the Python theory, for a running kernel; a tick also trains the matrices (seconds).

    In a page without a kernel its controls do nothing: show `phase_explorer` there.
    """
    import ipywidgets
    from IPython.display import display

    wide = dict(style={"description_width": "9rem"}, layout={"width": "26rem"}, continuous_update=False)
    pairs = "; ".join(f"{lam}, {rho}" for lam, rho in features)
    controls = {
        "depth": ipywidgets.IntSlider(3, 1, 6, description="Encoder depth L", **wide),
        "log_eps": ipywidgets.FloatSlider(-2.5, min=-6, max=-1, step=0.25, description="log10 of eps", **wide),
        "pairs": ipywidgets.Text(pairs, description="lam, rho; …", **wide),
        "simulate": ipywidgets.Checkbox(False, description="Train the matrices too"),
    }

    def draw(depth, log_eps, pairs, simulate):
        eps = 10**log_eps
        try:
            typed = [list(map(float, pair.split(","))) for pair in pairs.split(";")]
            lam, rho = torch.tensor(typed, dtype=torch.float64).T
            theory.check(lam, rho, depth, eps)
            simulated = matrices(lam, rho, depth, eps) if simulate else None
            display(curves_figure(lam, rho, depth, eps, simulated))
        except ValueError as reason:
            print(reason)

    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(draw, controls)])
