"""What a trained ECG-JEPA says about single records: which hidden time it can predict, which records are near, which
time a diagnosis rests on.

`viewer_records` puts it all into the form that the page's viewer shows; `examine` does it for a reader's own record.
Shape letters: n records, T samples, N tokens, C seen tokens, K hidden tokens, D width, F features, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from jepa_lab.data.ecg.records import MAX_MV
from jepa_lab.losses import identity
from jepa_lab.masks import Masks
from jepa_lab.objectives import JEPA, predict, targets
from jepa_lab.papers.ecg_jepa import features, multilabel
from jepa_lab.papers.ecg_jepa.world import ECGData
from jepa_lab.probes.linear import LinearFit

SHOWN_DIAGNOSES = 3  # of each record, the likeliest


@dataclass(frozen=True)
class Explainer:
    """A trained model, a probe of its pooled latents, and the error of the mean latent at every position."""

    model: JEPA
    data: ECGData
    probe: LinearFit
    blind_N: Float[Tensor, " N"]  # mean distance of a validation record's latent from the mean latent there

    @property
    def num_tokens(self) -> int:
        return self.data.grid[0]

    def pooled(self, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n F"]:
        """The features that the probe reads."""
        return features.pooled(self.model.target_encoder, self.data, signals)


@torch.no_grad()
def explainer(model: JEPA, data: ECGData, idx: Int64[Tensor, " m"], seed: int = 0) -> Explainer:
    """An explainer whose probe is fitted on the labels of the training records `idx`."""
    rows = idx.to(data.device)
    pooled = features.pooled(model.target_encoder, data, data.train.signals[rows])
    probe = multilabel.fit_labels(pooled, data.train.labels[rows], torch.Generator().manual_seed(seed))
    tokens_nND = features.latents(model.target_encoder, data, data.validation.signals)[1]
    blind_N = (tokens_nND - tokens_nND.mean(dim=0)).abs().mean(dim=(0, 2))
    return Explainer(model, data, probe, blind_N)


def candidate_masks(num_tokens: int, seconds: float, window: float = 2.0) -> dict[str, list[int]]:
    """Hidden tokens by name: every `window` seconds at half that stride, and all but one `window` at the two ends and
    the middle.
    """
    size = round(window / seconds * num_tokens)
    found = {}
    for start in range(0, num_tokens - size + 1, max(1, size // 2)):
        found[_span(start, size, seconds / num_tokens)] = list(range(start, start + size))
    for start in (0, (num_tokens - size) // 2, num_tokens - size):
        hidden = [i for i in range(num_tokens) if not start <= i < start + size]
        found[f"all but {_span(start, size, seconds / num_tokens)}"] = hidden
    return found


def _span(start: int, size: int, seconds_per_token: float) -> str:
    return f"{start * seconds_per_token:g} to {(start + size) * seconds_per_token:g} s"


@torch.no_grad()
def predictability(
    explainer: Explainer, signals: Float[Tensor, "n 12 T"], hidden: Sequence[int]
) -> Float[Tensor, "n K"]:
    """Latent error of every hidden token: L1 between prediction and target, over that of the mean latent at its
    position.

    0 is a perfect prediction, 1 no better than not looking.
    """
    model, patches_nNP = explainer.model, explainer.data.to_batch(signals)
    hidden_K = torch.tensor(sorted(hidden), device=patches_nNP.device)
    seen = [i for i in range(explainer.num_tokens) if i not in set(hidden)]
    seen_C = torch.tensor(seen, device=patches_nNP.device)
    n = len(signals)
    masks = Masks(seen_C.expand(n, -1), hidden_K.expand(n, 1, -1), explainer.data.grid)
    error_nK = (predict(model, patches_nNP, masks) - targets(model, patches_nNP, masks, identity))[:, 0].abs().mean(-1)
    return error_nK / explainer.blind_N[hidden_K]


@torch.no_grad()
def saliency(explainer: Explainer, signals: Float[Tensor, "n 12 T"], window: int = 3) -> Float[Tensor, "n L N"]:
    """The probe's logits of the whole record less those without `window` tokens around each token.

    The tokens are left out, not set to zero. Positive where hiding the token speaks against the diagnosis.
    """
    encoder, data, n = explainer.model.target_encoder, explainer.data, explainer.num_tokens
    logits_nL = explainer.probe(explainer.pooled(signals))
    drops = []
    for i in range(n):
        seen_C = torch.tensor([j for j in range(n) if abs(j - i) > window // 2], device=data.device)
        tokens_nCD = features.latents(encoder, data, signals, seen_C)[1]
        drops.append(logits_nL - explainer.probe(features.pool(tokens_nCD)))
    return torch.stack(drops, dim=-1)


def standardised(explainer: Explainer, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n F"]:
    """Pooled latents, standardised; the distance between two of them is the root mean square of their difference."""
    pooled_nF = explainer.pooled(signals)
    return (pooled_nF - explainer.probe.mean) / explainer.probe.std / pooled_nF.shape[1] ** 0.5


def examples(explainer: Explainer, diagnoses: Sequence[str], near: int = 1) -> list[int]:
    """Test records for the page: for each diagnosis the first that has it, alone if possible, and its `near` nearest of
    all test records.

    Records with a lead beyond MAX_MV are left out: they hold an artefact.
    """
    test, chosen = explainer.data.test, []
    features_nF = standardised(explainer, test.signals)
    shown_n = test.signals.abs().amax(dim=(1, 2)) <= MAX_MV
    for name in diagnoses:
        first = _purest(test.labels, test.label_names.index(name), shown_n)
        apart_n = torch.cdist(features_nF[first : first + 1], features_nF)[0].masked_fill(~shown_n, torch.inf)
        nearest = [i for i in apart_n.argsort().tolist() if i != first]
        chosen += [i for i in [first, *nearest] if i not in chosen][: near + 1]
    return chosen


def _purest(labels_nL: Bool[Tensor, "n L"], label: int, shown_n: Bool[Tensor, " n"]) -> int:
    """The first record with the label, among the shown ones, that has the fewest others."""
    has_n = (labels_nL[:, label] & shown_n).long()
    return int((has_n * labels_nL.shape[1] * 2 - labels_nL.sum(dim=1)).argmax())


def explained(explainer: Explainer, signals: Float[Tensor, "n 12 T"]) -> list[dict]:
    """For each record: `patches`, `masks` and `saliency` as explorer.viewer takes them.

    Saliency is that of the diagnoses that the probe finds likeliest.
    """
    masks = candidate_masks(explainer.num_tokens, signals.shape[-1] / explainer.data.train.rate)
    errors = {name: predictability(explainer, signals, hidden) for name, hidden in masks.items()}
    drops_nLN = saliency(explainer, signals)
    logits_nL = explainer.probe(explainer.pooled(signals))
    names, found = explainer.data.train.label_names, []
    for i in range(len(signals)):
        likely = logits_nL[i].topk(min(SHOWN_DIAGNOSES, len(names))).indices.tolist()
        with_errors = [{"name": name, "hidden": masks[name], "error": errors[name][i].tolist()} for name in masks]
        saliencies = {names[label]: drops_nLN[i, label].tolist() for label in likely}
        found.append({"patches": explainer.num_tokens, "masks": with_errors, "saliency": saliencies})
    return found


def neighbours(apart: Float[Tensor, " m"], near: int, without: int | None = None) -> list[dict]:
    """The `near` nearest records of explorer.viewer, with their distances."""
    order = [j for j in apart.argsort().tolist() if j != without][:near]
    return [{"record": j, "distance": float(apart[j])} for j in order]


def viewer_records(explainer: Explainer, chosen: Sequence[int], near: int = 3) -> list[dict]:
    """The test records `chosen` as explorer.viewer takes them, each with its `near` nearest among them."""
    test = explainer.data.test
    signals = _chosen_signals(explainer, chosen).float()
    features_nF = standardised(explainer, signals)
    apart_nn = torch.cdist(features_nF, features_nF)
    found = []
    for place, (i, parts) in enumerate(zip(chosen, explained(explainer, signals))):
        has = [test.label_names[label] for label in test.labels[i].nonzero().flatten().tolist()]
        shown = {
            "name": f"test record {i}: {', '.join(has) or 'no finding'}",
            "leads": signals[place].cpu(),
            "rate": test.rate,
            "diagnoses": has or ["no finding"],
            "neighbours": neighbours(apart_nn[place], near, without=place),
        }
        found.append(shown | parts)
    return found


def examine(signals: Float[Tensor, "12 T"], explainer: Explainer, chosen: Sequence[int], near: int = 3) -> dict:
    """One record of a reader as explorer.live_viewer takes it; its neighbours are among the test records `chosen`.

    Bind all but the signals with functools.partial: live_viewer calls the result.
    """
    record = signals[None].to(explainer.data.device)
    others_mF = standardised(explainer, _chosen_signals(explainer, chosen))
    apart_m = torch.cdist(standardised(explainer, record), others_mF)[0]
    return explained(explainer, record)[0] | {"neighbours": neighbours(apart_m, near)}


def _chosen_signals(explainer: Explainer, chosen: Sequence[int]) -> Tensor:
    return explainer.data.test.signals[torch.tensor(chosen, device=explainer.data.device)]
