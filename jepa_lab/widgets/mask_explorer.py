"""The mask explorer of chapter 01: in the page by JavaScript, precomputed as plotly figures, live on the Python
samplers.

plotly, ipywidgets and anywidget are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from jepa_lab import figures, masks
from jepa_lab.masks import Masks

Sampler = Callable[[int, Generator], Masks]
HERE = Path(__file__).parent


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
    generator, context, target, samples, shown = torch.Generator().manual_seed(seed), 0.0, 0.0, 0, 0
    while shown < draws:
        drawn = sampler(batch_size, generator)
        tokens = torch.Size(drawn.grid).numel()
        context = context + _counts(drawn.context_idx, tokens)
        target = target + _counts(drawn.target_idx, tokens)
        samples, shown = samples + len(drawn.context_idx), shown + batch_size
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


def _maps(rows: Sequence[Sequence[tuple[str, Tensor]]], tops: Sequence[float], title: str):
    """Heat maps of frequencies in percent; a row runs from 0 to its top share, because it compares two samplers."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = [name for row in rows for name, _ in row]
    fig = make_subplots(2, 2, subplot_titles=names, horizontal_spacing=0.06, vertical_spacing=0.1)
    for r, row in enumerate(rows, start=1):
        for c, (name, frequency) in enumerate(row, start=1):
            told = f"{name}<br>row %{{y}}, column %{{x}}: %{{z}} %<extra></extra>"
            values = [
                [round(100 * f, 1) if f > 0 else None for f in line] for line in frequency.tolist()
            ]  # None stays blank
            fig.add_trace(
                go.Heatmap(
                    z=values, name=name, coloraxis=f"coloraxis{r}", xgap=1, ygap=1, x0=1, y0=1, hovertemplate=told
                ),
                r,
                c,
            )
        bar = dict(len=0.4, thickness=12, y=0.79 if r == 1 else 0.21, ticksuffix=" %", outlinewidth=0)
        fig.update_layout({f"coloraxis{r}": dict(colorscale="Cividis", cmin=0, cmax=100 * tops[r - 1], colorbar=bar)})
    for i in ("", "2", "3", "4"):
        fig.layout[f"yaxis{i}"].scaleanchor = f"x{i}"
    height, width = rows[0][0][1].shape
    fig.update_yaxes(
        range=[height + 0.5, 0.5], constrain="domain", showticklabels=False, showgrid=False, zeroline=False
    )
    fig.update_xaxes(range=[0.5, width + 0.5], constrain="domain", showticklabels=False, showgrid=False, zeroline=False)
    fig.update_xaxes(title=dict(text="blank: never drawn", font=dict(size=13)), row=2, col=2)
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=640, title=dict(text=title))


def statistics_figure(grid: tuple[int, int] = (14, 14), batch_sizes: Sequence[int] = (8, 32, 128), draws: int = 2000):
    """Per-position frequencies of the corrected sampler beside the published one's, with a slider over images per
    batch.

    The corrected sampler does not see the batch size, the published one loses context to it: both are drawn, not
    stated.
    """
    ours = mask_statistics(corrected(grid), draws)
    uncut = mask_statistics(published(grid), draws, batch_size=1)
    theirs = {size: mask_statistics(published(grid), max(draws, 24 * size), batch_size=size) for size in batch_sizes}
    tops = [max(float(stats[role].max()) for stats in (ours, *theirs.values())) for role in ("context", "target")]
    frames, said = [], []
    for size, found in theirs.items():
        rows = [
            [(f"{who}: {role}", stats[role]) for who, stats in (("corrected", ours), ("published", found))]
            for role in ("context", "target")
        ]
        text = f"published: context {uncut['context_share']:.0%}, after the cut {found['context_share']:.0%}"
        frames.append((str(size), _maps(rows, tops, text)))
        said.append(
            f"with {size} images per batch the published sampler keeps {found['context_share']:.1%} of the tokens as context"
        )
    description = (
        f"Four maps of a {grid[0]} by {grid[1]} grid. The corrected sampler uses every token and keeps {ours['context_share']:.1%} as context. "
        f"The published one never uses {uncut['never']:.1%} of the tokens, the last row and column; before the cut its context is "
        f"{uncut['context_share']:.1%}; {'; '.join(said)}."
    )
    figure = figures.with_slider(frames, "images per batch", description=description)
    for frame in figure.frames:
        frame.layout = {"title": frame.layout.title}  # a frame that repeats the axes breaks the square cells
    return figure


# ---- the explorer in the page ----------------------------------------------------------------------


def _example_series(steps: int = 240) -> dict:
    """A generated pulse train: a sharp and a slow bump per beat over a drifting line."""
    t = torch.linspace(0, 6, steps)
    beat = t % 1
    wave = torch.exp(-(((beat - 0.3) / 0.03) ** 2)) - 0.25 * torch.exp(-(((beat - 0.36) / 0.03) ** 2))
    wave = wave + 0.3 * torch.exp(-(((beat - 0.62) / 0.09) ** 2)) + 0.08 * torch.sin(1.3 * t)
    return {
        "values": [round(v, 3) for v in wave.tolist()],
        "tokens": 40,
        "caption": "A generated pulse train, 40 tokens of 6 samples.",
    }


def _example_row() -> dict:
    from sklearn.datasets import load_wine

    wine = load_wine()
    names = [name.replace("_", " ").replace("/", " / ") for name in wine.feature_names]
    return {
        "names": names,
        "values": [round(float(v), 2) for v in wine.data[0]],
        "caption": "The first row of the Wine data (UCI, in scikit-learn), 13 columns.",
    }


def _example_bev(side: int = 16) -> dict:
    """A generated street seen from above: two walls, four cars, a few posts."""
    occupied = torch.zeros(side, side, dtype=torch.int64)
    occupied[:, 1] = occupied[2:13, 14] = 1
    for top, left in ((2, 5), (5, 9), (9, 6), (12, 10)):
        occupied[top : top + 3, left] = occupied[top : top + 3, left + 1] = 1
    occupied[[0, 4, 8, 14], [12, 3, 12, 4]] = 1
    return {
        "occupied": occupied.tolist(),
        "caption": "A generated street from above: filled cells hold points, the rest is empty.",
    }


def _example_image(side: int = 28) -> Tensor:
    """A generated shirt-like shape, for when no image is given."""
    row, col = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    body, sleeves = (col.abs() < 0.45) & (row.abs() < 0.85), (col.abs() < 0.95) & (row > -0.85) & (row < -0.3)
    return (body | sleeves) * (0.65 + 0.25 * torch.sin(9 * col) * torch.cos(7 * row))


def explorer_data(image: Tensor | None = None, caption: str = "") -> dict:
    """What the page's explorer shows, as plain lists: ``image`` is one grey image [H,W] (or [1,H,W]) with values in
    0..1 or 0..255.
    """
    pixels = _example_image() if image is None else torch.as_tensor(image).detach().cpu().float().squeeze()
    if pixels.ndim != 2:
        raise ValueError(f"image must be one grey image [H, W], got shape {tuple(pixels.shape)}")
    if not torch.isfinite(pixels).all():
        raise ValueError("image holds NaN or infinite values")
    grey = (pixels * (255 if pixels.max() <= 1 else 1)).clamp(0, 255).round().long().tolist()
    said = caption or ("A generated shape; pass a real image to see it masked." if image is None else "")
    return {
        "image": {"pixels": grey, "caption": said},
        "series": _example_series(),
        "row": _example_row(),
        "bev": _example_bev(),
    }


@lru_cache
def _widget_class():
    import anywidget
    import traitlets

    class MaskExplorer(anywidget.AnyWidget):
        """Draws masks for four kinds of data in the browser; `data` as from `explorer_data`."""

        _esm = HERE / "mask_explorer.js"
        _css = HERE / "mask_explorer.css"
        data = traitlets.Dict().tag(sync=True)

    return MaskExplorer


def mask_explorer(image: Tensor | None = None, caption: str = ""):
    """The explorer as a widget that needs no kernel: four kinds of data, sliders, frequencies beside the published
    sampler's.

    ``image`` is one grey image as in `explorer_data`; ``caption`` says what it is and where it comes from.
    """
    return _widget_class()(data=explorer_data(image, caption))


# ---- the explorer on live Python samplers ----------------------------------------------------------


def _sample_figure(image: Tensor, drawn: Masks):
    """One image with its first sample's tokens marked: context as it is, targets in colour, the rest grey."""
    import plotly.graph_objects as go

    rows, cols = drawn.grid
    state = torch.zeros(rows * cols)
    state[drawn.context_idx[0]] = 1.0
    state[drawn.target_idx[0].flatten()] = 2.0
    side = image.shape[0] / rows, image.shape[1] / cols
    fig = go.Figure(go.Heatmap(z=image.tolist(), colorscale="gray", showscale=False, hoverinfo="skip"))
    veil = [[0, "rgba(120,126,134,.85)"], [0.5, "rgba(0,114,178,.2)"], [1, "rgba(213,94,0,.8)"]]
    names = [["unused", "context", "target"][int(s)] for s in state]
    fig.add_trace(
        go.Heatmap(
            z=state.reshape(rows, cols).tolist(),
            zmin=0,
            zmax=2,
            colorscale=veil,
            showscale=False,
            xgap=1,
            ygap=1,
            text=torch.tensor(range(rows * cols)).reshape(rows, cols).tolist(),
            customdata=[names[r * cols : (r + 1) * cols] for r in range(rows)],
            hovertemplate="token %{text}: %{customdata}<extra></extra>",
            x0=(side[1] - 1) / 2,
            dx=side[1],
            y0=(side[0] - 1) / 2,
            dy=side[0],
        )
    )
    fig.update_yaxes(autorange="reversed", scaleanchor="x", visible=False)
    fig.update_xaxes(visible=False)
    return figures.house(
        fig.update_layout(height=380),
        f"An image with {int((state == 1).sum())} context and {int((state == 2).sum())} target tokens of {len(state)}.",
    )


def _live_view(image: Tensor, side: int, num_targets: int, scale: float, aspect: float, keep: float, seed: int):
    """Figure of one draw and a sentence on 2,000 draws; ValueError when the setting is impossible."""
    grid = (side, side)
    shapes = masks.block_shapes(grid, (scale, scale), (aspect / 2, aspect))
    most = side * side - shapes[0][0] * shapes[0][1]
    settings = dict(
        num_targets=num_targets, target_shapes=shapes, num_context=min(max(1, round(keep * side * side)), most)
    )
    drawn = masks.multi_block(grid, 1, torch.Generator().manual_seed(seed), **settings)
    found = mask_statistics(lambda batch_size, generator: masks.multi_block(grid, batch_size, generator, **settings))
    low, high = float(found["context"].min()), float(found["context"].max())
    said = f"context {found['context_share']:.0%} of the tokens; a token is context in {low:.0%} to {high:.0%} of {found['draws']} samples"
    return _sample_figure(image, drawn), said


def live_mask_explorer(images: Tensor, patches: Sequence[int] = (4, 7, 14)):
    """The same explorer on the Python samplers, for a running kernel: ``images`` [n,H,W] or [n,1,H,W], grey.

    In a page without a kernel its sliders move and nothing follows: show `mask_explorer` there.
    """
    import ipywidgets as widgets
    from IPython.display import display

    shown = torch.as_tensor(images).detach().cpu().float()
    shown = shown[:, 0] if shown.ndim == 4 else shown
    if shown.ndim != 3 or len(shown) == 0:
        raise ValueError(f"images must be grey images [n, H, W], got shape {tuple(shown.shape)}")
    wide = dict(style={"description_width": "9rem"}, layout={"width": "26rem"}, continuous_update=False)
    controls = {
        "index": widgets.IntSlider(0, 0, len(shown) - 1, description="Image", **wide),
        "side": widgets.SelectionSlider(options=list(patches), description="Patches per side", **wide),
        "num_targets": widgets.IntSlider(2, 1, 6, description="Target blocks", **wide),
        "scale": widgets.FloatSlider(0.175, min=0.05, max=0.4, step=0.025, description="Size of one target", **wide),
        "aspect": widgets.FloatSlider(1.5, min=0.5, max=4.0, step=0.25, description="Aspect, at most", **wide),
        "keep": widgets.FloatSlider(0.25, min=0.05, max=0.8, step=0.025, description="Context kept", **wide),
        "seed": widgets.IntSlider(0, 0, 99, description="Seed", **wide),
    }

    def show(index, **setting):
        try:
            figure, said = _live_view(shown[index], **setting)
        except ValueError as reason:
            return print(reason)
        display(figure)
        print(said)

    return widgets.VBox([*controls.values(), widgets.interactive_output(show, controls)])
