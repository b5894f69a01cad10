"""Figures of chapter 10: each draws what one experiment of `experiments` or `extensions` measured.

Letters: o an objective, L a depth. Plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jepa_lab import diagnostics, figures
from jepa_lab.experiment import Measured
from jepa_lab.papers.implicit_bias import theory
from jepa_lab.papers.implicit_bias.experiments import STEP_MULTIPLES, rho_effect
from jepa_lab.papers.implicit_bias.paper import OBJECTIVES, Config

NOISY_OVER_CLEAN = "t* of noisy / t* of clean features"
THIN = dict(dash="dot", color="#888888")
PANEL = ("feature_std", "rankme", "cosine_to_mean", "target_variance")


def half_width(values: Tensor) -> list[float]:
    """Twice the standard error over the first axis, which holds the seeds."""
    return (2.0 * values.std(0) / values.shape[0] ** 0.5).tolist()


def arm_lines(x: Sequence[float], rows: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, tuple]:
    """Lines for `figures.curves`, one for each objective and depth, from rows [L, X] of each objective."""
    return {
        f"{o.upper()}, depth {L}": (x, table[i].tolist()) for o, table in rows.items() for i, L in enumerate(depths)
    }


def flow_errors(flow: Measured, cfg: Config):
    """Largest difference of matrices and ODE over the step size."""
    steps = [multiple * cfg.step_fraction for multiple in STEP_MULTIPLES]
    lines = arm_lines(steps, {o: errors.T for o, errors in flow.data["errors"].items()}, cfg.depths)
    worst = max(float(errors.max()) for errors in flow.data["errors"].values())
    fig = figures.curves(
        lines,
        "step size × fastest rate",
        "largest |simulation − ODE|",
        "The error is the step's own",
        description="Error against step size for each objective and depth on logarithmic axes; "
        f"all lines fall with slope 1 from at most {worst:.2g}.",
    )
    return fig.update_xaxes(type="log", tickvals=steps).update_yaxes(type="log", dtick="D2")


def flow_curves(flow: Measured, cfg: Config, rho: Tensor):
    """Learning curves of JEPA at the largest depth: theory as lines, the matrices of one seed as dots."""
    sim, ode = flow.data["curves"]["jepa"]
    depth = cfg.depths[-1]
    tau = depth * sim.times[:, -1]
    names = [f"rho = {r:.2f}" for r in rho.tolist()]
    fig = figures.curves(
        {name: (tau.tolist(), ode[:, -1, i].tolist()) for i, name in enumerate(names)},
        "time τ",
        "share of the fixed point",
        f"JEPA, depth {depth}, equal lam: lines are theory, dots the matrices of one seed",
        description="Four learning curves at equal lam; larger rho rises earlier; "
        "simulated dots lie on the theoretical lines.",
    )
    shown = slice(0, None, max(1, len(tau) // 60))
    for i, name in enumerate(names):
        fig.add_scatter(
            x=tau[shown].tolist(),
            y=sim.progress[shown, -1, 0, i].tolist(),
            mode="markers",
            showlegend=False,
            marker=dict(color=figures.colour(name), size=6, symbol="circle-open"),
            name=f"simulated, {name}",
        )
    return fig


def spread_over_depth(sweep: Measured, cfg: Config):
    """t*(0.5) / t*(0.95) at equal lam over depth: exact as lines, minibatch SGD as dots."""
    lines = {o.upper(): (cfg.sweep_depths, sweep.data["spread"][o].tolist()) for o in OBJECTIVES}
    deepest = cfg.sweep_depths[-1]
    words = [f"{name} from {y[0]:.2f} at depth 1 to {y[-1]:.2f} at depth {deepest}" for name, (_, y) in lines.items()]
    fig = figures.curves(
        lines,
        "encoder depth L",
        "t*(ρ = 0.5) / t*(ρ = 0.95)",
        f"Only JEPA waits longer for noise (exact, ε = {cfg.sweep_eps:g})",
        description=f"Ratio of critical times over depth at equal lam: {'; '.join(words)}.",
    )
    for o in OBJECTIVES:
        spread = sweep.data["sgd"][o].T  # [S, L]
        fig.add_scatter(
            x=list(cfg.depths),
            y=spread.mean(0).tolist(),
            mode="markers",
            name=f"{o.upper()}, SGD, ε = {cfg.eps:g}",
            error_y=dict(type="data", array=half_width(spread)),
            marker=dict(color=figures.colour(o.upper()), size=10, symbol="diamond-open"),
        )
    return fig


def rho_effect_over_eps(depths: Sequence[int] = (2, 3, 4, 5), fraction: float = 0.5):
    """The rho effect over eps on logarithmic axes, exact and to first order."""
    eps = [10.0 ** (-k / 2) for k in range(6, 19)]
    low, high = (torch.tensor([rho], dtype=torch.float64) for rho in (0.5, 0.95))
    lines = {}
    for L in depths:
        lines[f"depth {L}"] = (eps, [rho_effect(low, high, L, e, fraction) - 1 for e in eps])
        lines[f"depth {L}, first order"] = (eps, [float(theory.rho_ratio(low, high, L, e)) - 1 for e in eps])
    fig = figures.curves(
        lines,
        "ε",
        "t*(0.5) / t*(0.95) − 1",
        "The ρ effect falls as ε to the power 1/L",
        description="The rho effect against eps on logarithmic axes for depth 2 to 5, exact and to first order: "
        "straight lines of slope 1/L that meet as eps goes to 0.",
    )
    power = dict(type="log", exponentformat="power", dtick=1)
    return fig.update_xaxes(**power).update_yaxes(**power)


def collapse_along_training(noisy: Measured, rho: Tensor, x: Tensor, cfg: Config):
    """The collapse panel of codes of the inputs x, Float[N, D], along one run of depth 2 on the temporal model."""
    panels = {}
    for o in OBJECTIVES:
        sim = noisy.data["simulations"]["temporal", o]
        at, goal = sim.depths.index(2), theory.fixed_point(o, rho, 2)
        moments = torch.linspace(0, len(sim.times) - 1, 25).long().tolist()
        found = [diagnostics.panel((x * sim.progress[t, at, 0].cpu() * goal).float()) for t in moments]
        share = [float(sim.times[t, at] / sim.times[-1, at]) for t in moments]
        panels[o.upper()] = {metric: (share, [values[metric] for values in found]) for metric in PANEL}
    fig = figures.collapse_panel(panels, "The collapse panel along training")
    return fig.update_xaxes(title=dict(text="share of the training time"), row=2)


def temporal_ratios(study: Sequence[dict], today: Mapping[str, float], cfg: Config):
    """Noisy over clean in the temporal model: the study's seeds and this run, per objective and depth."""
    names = {f"{o.upper()}, depth {L}": f"temporal {o} depth {L}" for o in OBJECTIVES for L in cfg.depths}
    stored = {arm: [r["values"][key] for r in study if key in r["values"]] for arm, key in names.items()}
    fig = figures.claim_figure(
        stored,
        {arm: today[key] for arm, key in names.items()},
        NOISY_OVER_CLEAN,
        title="Temporal model: above 1, clean features come first",
    )
    return fig.add_vline(x=1, line=THIN)


def learned_in_time(start: Measured, rho: Tensor, cfg: Config):
    """Gain / fixed point at the horizon over rho, from random starts, with bands over seeds."""
    lines, bands = {}, {}
    for o in OBJECTIVES:
        for i, L in enumerate(cfg.shallow_depths):
            final = start.data["final"][o][i]  # [S, D]
            mean, half = final.mean(0), torch.tensor(half_width(final), device=final.device)
            lines[f"{o.upper()}, depth {L}"] = (rho.tolist(), mean.tolist())
            bands[f"{o.upper()}, depth {L}"] = (rho.tolist(), (mean - half).tolist(), (mean + half).tolist())
    return figures.curves(
        lines,
        "regression coefficient ρ",
        "gain / fixed point at the horizon",
        "Random start, equal λ: who is learned in time?",
        bands=bands,
    )


def order_over_angle(turned: Measured, cfg: Config):
    """Noisy over clean against the angle between the bases of Sxx and Syx."""
    lines = arm_lines(cfg.angles, turned.data["ratio"], cfg.shallow_depths)
    x_title, title = "angle between the two bases, degrees", "Above 1, clean features come first"
    return figures.curves(lines, x_title, NOISY_OVER_CLEAN, title).add_hline(y=1, line=THIN)


def order_over_memory(ema: Measured, cfg: Config):
    """Noisy over clean against the memory of the EMA target."""
    lines = arm_lines(cfg.ema_memories, {"jepa": ema.data["ratio"]}, cfg.shallow_depths)
    x_title, title = "memory of the EMA target, in critical times", "A lagging target holds the clean features back"
    fig = figures.curves(lines, x_title, NOISY_OVER_CLEAN, title).add_hline(y=1, line=THIN)
    return fig.update_xaxes(type="log", tickvals=cfg.ema_memories, range=[-2.7, -0.4])


def noise_in_relu_code(relu: Measured):
    """Noisy over clean gain of the ReLU encoder along training."""
    lines = {}
    for o in OBJECTIVES:
        times = relu.data["times"][o]
        lines[o.upper()] = ((times / times[-1]).tolist(), relu.data["share"][o].tolist())
    return figures.curves(
        lines,
        "share of the training time",
        "gain on noisy / gain on clean directions",
        "ReLU encoder: noise against signal in the code",
        description="; ".join(f"{name}: peak {max(y):.2f}, end {y[-1]:.2f}" for name, (_, y) in lines.items()),
    )


def patch_times(patches: Measured, cfg: Config):
    """t* over measured rho for the directions of real patches: simulated, and by the scalar theory."""
    from plotly.subplots import make_subplots

    at = cfg.shallow_depths.index(2)
    fig = make_subplots(1, 2, subplot_titles=["JEPA, depth 2", "MAE, depth 2"])
    for column, o in enumerate(OBJECTIVES, 1):
        fig.add_traces(_patch_traces(patches, o, at), rows=1, cols=column)
    fig.update_traces(showlegend=False, col=2)
    fig.update_xaxes(title=dict(text="measured ρ")).update_yaxes(rangemode="tozero")
    fig.update_layout(yaxis_title=dict(text="t*, literal time"), height=420)
    ratios = [f"{o.upper()} noisy over clean {patches.data['ratio'][o][at].mean():.2f}" for o in OBJECTIVES]
    words = f"Critical time against measured rho, six directions of real patches: {'; '.join(ratios)}"
    figures.apply_theme(fig, words)
    return fig.update_layout(margin=dict(t=90), legend=dict(y=1, yref="container", yanchor="top"))


def _patch_traces(patches: Measured, o: str, at: int) -> list:
    from plotly.graph_objects import Scatter

    rho, critical = patches.data["rho"].mean(0).tolist(), patches.data["critical"][o][at]  # [S, D]
    simulated = Scatter(
        x=rho,
        y=critical.mean(0).tolist(),
        error_y=dict(type="data", array=half_width(critical)),
        mode="markers",
        name="simulated on patches",
        text=[f"lam {v:.2f}" for v in patches.data["lam"].mean(0)],
        marker=dict(size=10, color=figures.colour(o.upper())),
    )
    predicted = Scatter(
        x=rho,
        y=patches.data["predicted"][o][at].tolist(),
        mode="markers",
        name="scalar theory with measured λ, ρ",
        marker=dict(size=12, symbol="x-thin", line=dict(width=2, color="#888888")),
    )
    return [simulated, predicted]
