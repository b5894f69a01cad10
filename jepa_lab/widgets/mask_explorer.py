"""The mask explorer of chapter 01 in the page, live on the Python samplers, and as plotly figures of frequencies.

plotly and ipywidgets are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from jepa_lab import figures, masks, widgets
from jepa_lab.masks import Masks
from jepa_lab.widgets.mask_examples import explorer_data

Sampler = Callable[[int, Generator], Masks]
SCRIPT = Path(__file__).with_suffix(".js")
ROLES = ("context", "target")
VEIL = [[0, "rgba(120,126,134,.85)"], [0.5, "rgba(0,114,178,.2)"], [1, "rgba(213,94,0,.8)"]]  # unused, context, target


def mask_explorer(image: Tensor | None = None, caption: str = ""):
    """The explorer as a widget that needs no kernel: four kinds of data, sliders, frequencies beside the published
    sampler's.

    ``image`` and ``caption`` as in `explorer_data`.
    """
    return widgets.show(SCRIPT, explorer_data(image, caption))


# ---- frequencies -----------------------------------------------------------------------------------


def _counts(index: Tensor, tokens: int) -> Tensor:
    return torch.bincount(index.flatten(), minlength=tokens).double()


def mask_statistics(sampler: Sampler, draws: int = 2000, batch_size: int = 128, seed: int = 0) -> dict:
    """How often each token is context and target, over at least ``draws`` samples of ``sampler(batch_size,
    generator)``.

    Returns ``context`` (share of samples with the token in the context) and ``target`` (share of target blocks that
    hold it), both [*grid] float64 tensors; ``context_share`` (mean context size over N), ``never`` (share of tokens
    that were neither in any draw) and ``draws`` (samples counted). The number of targets must not change between calls.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    context, target, samples = 0.0, 0.0, 0
    for _ in range(-(-draws // batch_size)):
        drawn = sampler(batch_size, generator)
        tokens = torch.Size(drawn.grid).numel()
        context = context + _counts(drawn.context_idx, tokens)
        target = target + _counts(drawn.target_idx, tokens)
        samples += len(drawn.context_idx)
    blocks = samples * drawn.target_idx.shape[1]
    return {
        "context": (context / samples).reshape(drawn.grid),
        "target": (target / blocks).reshape(drawn.grid),
        "context_share": float(context.sum() / samples / tokens),
        "never": float(((context + target) == 0).double().mean()),
        "draws": samples,
    }


def corrected(grid: tuple[int, int], *, num_targets: int = 4, keep: float | None = None) -> Sampler:
    """The corrected sampler with I-JEPA's ranges; ``keep`` is the context's share of the tokens, by default what 90 %
    of the draws can give.
    """
    shapes = masks.block_shapes(grid)
    budget = masks.context_budget(grid, shapes, num_targets=num_targets)
    num_context = budget if keep is None else max(1, round(keep * grid[0] * grid[1]))
    return lambda batch_size, generator: masks.multi_block(
        grid, batch_size, generator, num_targets=num_targets, target_shapes=shapes, num_context=num_context
    )


def published(grid: tuple[int, int], **settings) -> Sampler:
    """The published sampler as a function of batch size and generator."""
    return lambda batch_size, generator: masks.multi_block_published(grid, batch_size, generator, **settings)


def _percentages(frequency: Tensor) -> list[list[float | None]]:
    """Shares in percent; None, which stays blank, where the share is zero."""
    lines = frequency.tolist()
    return [[round(100 * share, 1) if share > 0 else None for share in line] for line in lines]


def _heat_map(name: str, frequency: Tensor, colours: str):
    import plotly.graph_objects as go

    return go.Heatmap(
        z=_percentages(frequency),
        name=name,
        coloraxis=colours,
        xgap=1,
        ygap=1,
        x0=1,
        y0=1,
        hovertemplate=f"{name}<br>row %{{y}}, column %{{x}}: %{{z}} %<extra></extra>",
    )


def _maps(ours: dict, theirs: dict, tops: dict[str, float], title: str):
    """Four heat maps of frequencies in percent: a row per role, from 0 to its top share, a column per sampler."""
    from plotly.subplots import make_subplots

    samplers = {"corrected": ours, "published": theirs}
    names = [f"{who}: {role}" for role in ROLES for who in samplers]
    fig = make_subplots(2, 2, subplot_titles=names, horizontal_spacing=0.06, vertical_spacing=0.1)
    for row, (role, middle) in enumerate(zip(ROLES, (0.79, 0.21)), start=1):
        axis = f"coloraxis{row}"
        for column, (who, stats) in enumerate(samplers.items(), start=1):
            fig.add_trace(_heat_map(f"{who}: {role}", stats[role], axis), row, column)
        bar = dict(len=0.4, thickness=12, y=middle, ticksuffix=" %", outlinewidth=0)
        fig.update_layout({axis: dict(colorscale="Cividis", cmin=0, cmax=100 * tops[role], colorbar=bar)})
    for i in ("", "2", "3", "4"):
        fig.layout[f"yaxis{i}"].scaleanchor = f"x{i}"
    height, width = ours["context"].shape
    plain = dict(constrain="domain", showticklabels=False, showgrid=False, zeroline=False)
    fig.update_yaxes(range=[height + 0.5, 0.5], **plain)
    fig.update_xaxes(range=[0.5, width + 0.5], **plain)
    fig.update_xaxes(title=dict(text="blank: never drawn", font=dict(size=13)), row=2, col=2)
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=640, title=dict(text=title))


def statistics_figure(grid: tuple[int, int] = (14, 14), batch_sizes: Sequence[int] = (8, 32, 128), draws: int = 2000):
    """Per-position frequencies of the corrected sampler beside the published one's, with a slider over images per
    batch.

    The corrected sampler does not see the batch size, the published one loses context to it.
    """
    ours = mask_statistics(corrected(grid), draws)
    uncut = mask_statistics(published(grid), draws, batch_size=1)
    theirs = {size: mask_statistics(published(grid), max(draws, 24 * size), batch_size=size) for size in batch_sizes}
    tops = {role: max(float(stats[role].max()) for stats in (ours, *theirs.values())) for role in ROLES}
    frames = []
    for size, found in theirs.items():
        title = f"published: context {uncut['context_share']:.0%}, after the cut {found['context_share']:.0%}"
        frames.append((str(size), _maps(ours, found, tops, title)))
    words = [f"{found['context_share']:.1%} with {size} images per batch" for size, found in theirs.items()]
    description = (
        f"Four maps of a {grid[0]} by {grid[1]} grid. The corrected sampler uses every token and keeps "
        f"{ours['context_share']:.1%} as context. The published sampler never uses {uncut['never']:.1%} of the tokens: "
        f"the last row and column. Its context is {uncut['context_share']:.1%} before the cut and, after it, "
        f"{', '.join(words)}."
    )
    figure = figures.with_slider(frames, "images per batch", description=description)
    for frame in figure.frames:
        frame.layout = {"title": frame.layout.title}  # a frame that repeats the axes breaks the square cells
    return figure


# ---- live on the Python samplers -------------------------------------------------------------------


def _sample_figure(image: Tensor, drawn: Masks):
    """One image under its first sample's tokens: context nearly clear, targets in colour, the rest grey."""
    import plotly.graph_objects as go

    rows, cols = drawn.grid
    state = torch.zeros(rows * cols, dtype=torch.int64)
    state[drawn.context_idx[0]] = 1
    state[drawn.target_idx[0].flatten()] = 2
    height, width = image.shape[0] / rows, image.shape[1] / cols
    token_RC = torch.arange(rows * cols).reshape(rows, cols)
    names = [["unused", "context", "target"][s] for s in state.tolist()]
    under = go.Heatmap(z=image.tolist(), colorscale="gray", showscale=False, hoverinfo="skip")
    over = go.Heatmap(
        z=state.reshape(rows, cols).tolist(),
        zmin=0,
        zmax=2,
        colorscale=VEIL,
        showscale=False,
        xgap=1,
        ygap=1,
        text=token_RC.tolist(),
        customdata=[[names[token] for token in line] for line in token_RC.tolist()],
        hovertemplate="token %{text}: %{customdata}<extra></extra>",
        x0=(width - 1) / 2,
        dx=width,
        y0=(height - 1) / 2,
        dy=height,
    )
    fig = go.Figure([under, over], dict(height=380))
    fig.update_yaxes(autorange="reversed", scaleanchor="x", visible=False)
    fig.update_xaxes(visible=False)
    counts = f"{names.count('context')} context and {names.count('target')} target tokens of {len(names)}"
    return figures.apply_theme(fig, f"An image with {counts}.")


def _live_view(image: Tensor, side: int, num_targets: int, scale: float, aspect: float, keep: float, seed: int):
    """Figure of one draw and a sentence on 2,000 draws; ValueError when the setting is impossible."""
    grid = (side, side)
    shapes = masks.block_shapes(grid, (scale, scale), (aspect / 2, aspect))
    most = side * side - shapes[0][0] * shapes[0][1]
    num_context = min(max(1, round(keep * side * side)), most)

    def sampler(batch_size: int, generator: Generator) -> Masks:
        return masks.multi_block(
            grid, batch_size, generator, num_targets=num_targets, target_shapes=shapes, num_context=num_context
        )

    drawn = sampler(1, torch.Generator().manual_seed(seed))
    found = mask_statistics(sampler)
    low, high = float(found["context"].min()), float(found["context"].max())
    words = (
        f"context {found['context_share']:.0%} of the tokens; "
        f"a token is context in {low:.0%} to {high:.0%} of {found['draws']} samples"
    )
    return _sample_figure(image, drawn), words


def live_mask_explorer(images: Tensor, patches: Sequence[int] = (4, 7, 14)):
    """The explorer on the Python samplers, for a running kernel: ``images`` [n,H,W] or [n,1,H,W], grey.

    In a page without a kernel its sliders do nothing: show `mask_explorer` there.
    """
    import ipywidgets
    from IPython.display import display

    shown = torch.as_tensor(images).detach().cpu().float()
    shown = shown[:, 0] if shown.ndim == 4 else shown
    if shown.ndim != 3 or len(shown) == 0:
        raise ValueError(f"images must be grey images [n, H, W], got shape {tuple(shown.shape)}")
    wide = dict(style={"description_width": "9rem"}, layout={"width": "26rem"}, continuous_update=False)
    whole, share = ipywidgets.IntSlider, ipywidgets.FloatSlider
    controls = {
        "index": whole(0, 0, len(shown) - 1, description="Image", **wide),
        "side": ipywidgets.SelectionSlider(options=list(patches), description="Patches per side", **wide),
        "num_targets": whole(2, 1, 6, description="Target blocks", **wide),
        "scale": share(0.175, min=0.05, max=0.4, step=0.025, description="Size of one target", **wide),
        "aspect": share(1.5, min=0.5, max=4.0, step=0.25, description="Aspect, at most", **wide),
        "keep": share(0.25, min=0.05, max=0.8, step=0.025, description="Context kept", **wide),
        "seed": whole(0, 0, 99, description="Seed", **wide),
    }

    def draw(index, **setting):
        try:
            figure, words = _live_view(shown[index], **setting)
        except ValueError as reason:
            print(reason)
        else:
            display(figure)
            print(words)

    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(draw, controls)])
