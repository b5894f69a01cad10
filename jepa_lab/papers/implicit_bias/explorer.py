"""The phase explorer of chapter 10: which feature is learned first? In the page by JavaScript, live on the Python
theory.

plotly, ipywidgets and anywidget are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from jepa_lab import figures
from jepa_lab.papers.implicit_bias import nets, theory

HERE = Path(__file__).parent
START = ((1.0, 0.4), (0.6, 0.9))  # (lam, rho): a noisy and a clean feature


@lru_cache
def _widget_class():
    import anywidget
    import traitlets

    class PhaseExplorer(anywidget.AnyWidget):
        """Solves and draws in the browser; `start` as from `explorer_start`."""

        _esm = HERE / "explorer.js"
        _css = HERE / "explorer.css"
        start = traitlets.Dict().tag(sync=True)

    return PhaseExplorer


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
    """The explorer as a widget that needs no kernel: depth, eps, movable features, both objectives' curves and orders."""
    return _widget_class()(start=explorer_start(features, depth, log_eps))


def curves_figure(lam: Tensor, rho: Tensor, depth: int, eps: float, simulated: dict | None = None):
    """JEPA and MAE side by side: share of the fixed point over tau, exact (lines) and, if given, simulated (dots)."""
    from plotly.colors import sample_colorscale
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    fig, said, many = make_subplots(1, 2, subplot_titles=["JEPA", "MAE"], horizontal_spacing=0.1), [], len(lam) > 5
    colours = (
        sample_colorscale("Viridis", [0.15 + 0.7 * i / (len(lam) - 1) for i in range(len(lam))])
        if many
        else figures.PALETTE
    )
    for col, objective in enumerate(("jepa", "mae"), 1):
        tau, share = theory.learning_curve(objective, lam, rho, depth, eps, last=0.99, points=121)
        for i in range(len(lam)):
            name = f"lam {float(lam[i]):.3g}, rho {float(rho[i]):.3g}"
            line = dict(color=colours[i], width=2)
            named = col == 1 and (not many or i in (0, len(lam) - 1))  # of a graded family the ends are enough
            fig.add_trace(
                Scatter(
                    x=tau[i].tolist(),
                    y=share[i].tolist(),
                    name=name,
                    legendgroup=name,
                    showlegend=named,
                    line=line,
                    mode="lines",
                ),
                1,
                col,
            )
            if simulated:
                times, progress = simulated[objective]
                fig.add_trace(
                    Scatter(
                        x=times.tolist(),
                        y=progress[:, i].tolist(),
                        mode="markers",
                        showlegend=False,
                        name=f"{name}, simulated",
                        legendgroup=name,
                        marker=dict(color=line["color"], size=5),
                    ),
                    1,
                    col,
                )
        first = theory.critical_time(objective, lam, rho, depth, eps).argsort().tolist()
        said.append(
            f"{objective.upper()} learns in the order of lam, rho = "
            + ", then ".join(f"{float(lam[i]):.3g}, {float(rho[i]):.3g}" for i in first)
        )
    fig.update_xaxes(title=dict(text="time tau"), rangemode="tozero")
    fig.update_yaxes(range=[0, 1.02])
    fig.update_layout(height=400, yaxis_title=dict(text="share of the fixed point"))
    figures.house(fig, f"Learning curves at depth {depth}, eps {eps:g}. {'. '.join(said)}.")
    return fig.update_layout(margin=dict(t=110), legend=dict(y=1.0, yref="container", yanchor="top"))


def group_figure(simulations: dict, depth: int):
    """Mean share learned over seeds with its range, clean (first half) and noisy features, JEPA beside MAE.

    `simulations` maps objective to a `linear_nets.Simulation`; time is tau.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    fig, said = make_subplots(1, 2, subplot_titles=["JEPA", "MAE"], horizontal_spacing=0.1), []
    for col, (objective, sim) in enumerate(simulations.items(), 1):
        index = sim.depths.index(depth)
        half = sim.progress.shape[-1] // 2
        shown = torch.linspace(0, len(sim.times) - 1, 80).long()
        tau, progress = depth * sim.times[shown, index], sim.progress[shown, index]  # [T], [T, S, D]
        for name, part in (("clean", slice(0, half)), ("noisy", slice(half, None))):
            group = progress[..., part].mean(-1)  # [T, S]
            low, high = group.amin(1).tolist(), group.amax(1).tolist()
            fig.add_trace(
                Scatter(
                    x=tau.tolist() + tau.flip(0).tolist(),
                    y=high + low[::-1],
                    fill="toself",
                    line=dict(width=0),
                    opacity=0.3,
                    fillcolor=figures.colour(name),
                    mode="lines",
                    showlegend=False,
                    hoverinfo="skip",
                    name=f"{name}, range",
                ),
                1,
                col,
            )
            fig.add_trace(
                Scatter(
                    x=tau.tolist(),
                    y=group.mean(1).tolist(),
                    name=f"{name} features",
                    showlegend=col == 1,
                    line=dict(color=figures.colour(name), dash=figures.dash(name), width=2.5),
                    mode="lines",
                ),
                1,
                col,
            )
            said.append(
                f"{objective.upper()} {name}: half learned at tau {float(depth * sim.critical[index][:, part].mean()):.4g}"
            )
    fig.update_xaxes(title=dict(text="time tau"), rangemode="tozero")
    fig.update_yaxes(rangemode="tozero")
    fig.update_layout(height=400, yaxis_title=dict(text="share of the fixed point"))
    figures.house(fig, f"Learning curves at depth {depth}. {'; '.join(said)}.")
    return fig.update_layout(margin=dict(t=110), legend=dict(y=1.0, yref="container", yanchor="top"))


def phase_map(depths: Sequence[int], log_eps: Sequence[float], ratio: dict[str, Tensor]):
    """Which of two features is first over depth and eps: log2 of t*_noisy / t*_clean, [L, E] per objective; nan is
    refused.
    """
    from plotly.graph_objects import Heatmap
    from plotly.subplots import make_subplots

    fig, said = make_subplots(1, 2, subplot_titles=["JEPA", "MAE"], horizontal_spacing=0.1, shared_yaxes=True), []
    for col, objective in enumerate(("jepa", "mae"), 1):
        table = ratio[objective]
        known = table[~table.isnan()]
        z = [[None if v != v else round(v, 3) for v in row] for row in table.log2().tolist()]
        fig.add_trace(
            Heatmap(
                z=z,
                x=[round(float(e), 3) for e in log_eps],
                y=list(depths),
                zmid=0,
                zmin=-1.2,
                zmax=1.2,
                colorscale="PuOr",
                xgap=1,
                ygap=1,
                name=objective.upper(),
                showscale=col == 2,
                hovertemplate="depth %{y}, eps 10^%{x:.2f}<br>log2 of the ratio: %{z}<extra></extra>",
                colorbar=dict(thickness=12, tickvals=[-1, 0, 1], ticktext=["noisy first", "together", "clean first"]),
            ),
            1,
            col,
        )
        said.append(f"{objective.upper()}: clean first in {int((known > 1).sum())} of {len(known)} cells")
    fig.update_xaxes(title=dict(text="log10 of eps"))
    fig.update_layout(height=400, yaxis_title=dict(text="depth L"))
    return figures.house(
        fig,
        f"Two maps over depth and eps. {'; '.join(said)}. Blank: eps is not below half of the smallest fixed point.",
    )


def matrices(lam: Tensor, rho: Tensor, depth: int, eps: float) -> dict:
    """The same features trained as matrices: per objective (tau [T], share of the fixed point [T, D]), 25 points."""
    out = {}
    for objective in ("jepa", "mae"):
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
    """The same with a running kernel, on the Python theory; a tick also trains the matrices (seconds).

    In a page without a kernel its controls move and nothing follows: show `phase_explorer` there.
    """
    import ipywidgets as widgets
    from IPython.display import display

    wide = dict(style={"description_width": "9rem"}, layout={"width": "26rem"}, continuous_update=False)
    controls = {
        "depth": widgets.IntSlider(3, 1, 6, description="Encoder depth L", **wide),
        "log_eps": widgets.FloatSlider(-2.5, min=-6, max=-1, step=0.25, description="log10 of eps", **wide),
        "pairs": widgets.Text("; ".join(f"{lam}, {rho}" for lam, rho in features), description="lam, rho; …", **wide),
        "simulate": widgets.Checkbox(False, description="Train the matrices too"),
    }

    def show(depth, log_eps, pairs, simulate):
        try:
            lam, rho = torch.tensor(
                [[float(v) for v in pair.split(",")] for pair in pairs.split(";")], dtype=torch.float64
            ).T
            theory.check(lam, rho, depth, 10**log_eps)
            display(
                curves_figure(
                    lam, rho, depth, 10**log_eps, matrices(lam, rho, depth, 10**log_eps) if simulate else None
                )
            )
        except ValueError as reason:
            print(reason)

    return widgets.VBox([*controls.values(), widgets.interactive_output(show, controls)])
