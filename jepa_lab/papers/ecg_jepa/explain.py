"""What a trained ECG-JEPA makes of single records: which hidden time it can predict, what is near, what a diagnosis
rests on.

`records` puts it all into the form that explorers.ecg shows; `examine` does it for a reader's own record.
Shape letters: n records, T samples, N tokens, K hidden tokens, D width, F features, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab import train
from jepa_lab.masks import Masks
from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.papers.ecg_jepa import world as ecg_world
from jepa_lab.papers.ecg_jepa.explorer import MAX_MV
from jepa_lab.papers.ecg_jepa.world import World
from jepa_lab.probes.linear import LinearFit


@dataclass(frozen=True)
class Reader:
    """A trained model, a probe of its pooled latents, and what a guess without looking costs at every position."""

    model: train.JEPA
    world: World
    probe: LinearFit
    blind_N: Float[Tensor, " N"]  # mean distance of a validation record's latent from the mean latent there

    @property
    def num_tokens(self) -> int:
        return self.world.grid[0]


@torch.no_grad()
def reader(model: train.JEPA, world: World, idx: Int64[Tensor, " m"], seed: int = 0) -> Reader:
    """A reader whose probe knows the labels of the training records `idx`."""
    encoder = model.target_encoder
    pooled = ecg_world.encoded(encoder, world)(world.train.signals[idx.to(world.device)])
    probe = multilabel.fit_labels(pooled, world.train.labels[idx.to(world.device)], torch.Generator().manual_seed(seed))
    tokens_nND = ecg_world.latents(encoder, world, world.validation.signals)[1]
    return Reader(model, world, probe, (tokens_nND - tokens_nND.mean(dim=0)).abs().mean(dim=(0, 2)))


def candidates(num_tokens: int, seconds: float, window: float = 2.0) -> dict[str, list[int]]:
    """What can be hidden, by name: every `window` seconds at half that stride, and all but one `window` at the two ends
    and the middle.
    """
    size = round(window / seconds * num_tokens)
    span = lambda start, stop: f"{start * seconds / num_tokens:g} to {stop * seconds / num_tokens:g} s"  # noqa: E731
    starts = range(0, num_tokens - size + 1, max(1, size // 2))
    found = {span(start, start + size): list(range(start, start + size)) for start in starts}
    for start in (0, (num_tokens - size) // 2, num_tokens - size):
        found[f"all but {span(start, start + size)}"] = [i for i in range(num_tokens) if not start <= i < start + size]
    return found


@torch.no_grad()
def predictability(reader: Reader, signals: Float[Tensor, "n 12 T"], hidden: Sequence[int]) -> Float[Tensor, "n K"]:
    """Latent error of every hidden token: L1 between prediction and target, over that of the mean latent at its
    position.

    0 is a perfect prediction, 1 no better than not looking.
    """
    model, patches_nNP = reader.model, reader.world.to_batch(signals)
    hidden_K = torch.tensor(sorted(hidden), device=patches_nNP.device)
    seen_C = torch.tensor([i for i in range(reader.num_tokens) if i not in set(hidden)], device=patches_nNP.device)
    masks = Masks(seen_C.expand(len(signals), -1), hidden_K.expand(len(signals), 1, -1), reader.world.grid)
    target_nKD = model.target_encoder(patches_nNP)[:, hidden_K]
    pred_nKD = model.predictor(model.encoder(patches_nNP, masks.context_idx), masks)[:, 0]
    return (pred_nKD - target_nKD).abs().mean(dim=-1) / reader.blind_N[hidden_K]


@torch.no_grad()
def saliency(reader: Reader, signals: Float[Tensor, "n 12 T"], window: int = 3) -> Float[Tensor, "n L N"]:
    """What each token means to each diagnosis: the probe's logit of the whole record less that without `window` tokens
    around it.

    Left out, not set to zero: the encoder never sees them. Positive where hiding the token speaks against the
    diagnosis.
    """
    encoder, world, n = reader.model.target_encoder, reader.world, reader.num_tokens
    logits_nL = reader.probe(ecg_world.encoded(encoder, world)(signals))
    drops = []
    for i in range(n):
        seen_C = torch.tensor([j for j in range(n) if abs(j - i) > window // 2], device=world.device)
        drops.append(logits_nL - reader.probe(ecg_world.pool(ecg_world.latents(encoder, world, signals, seen_C)[1])))
    return torch.stack(drops, dim=-1)


def placed(reader: Reader, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n F"]:
    """Pooled latents, standardised; the distance between two of them is the root mean square of their difference."""
    z_nF = ecg_world.encoded(reader.model.target_encoder, reader.world)(signals)
    return (z_nF - reader.probe.mean) / reader.probe.std / z_nF.shape[1] ** 0.5


def examples(reader: Reader, diagnoses: Sequence[str], near: int = 1) -> list[int]:
    """Test records for the page: for each diagnosis the first that has it, alone if possible, and its `near` nearest of
    all test records.

    Of those that the viewer shows: a lead of more than its MAX_MV is an artefact.
    """
    test, chosen = reader.world.test, []
    z_nF, shown_n = placed(reader, test.signals), test.signals.abs().amax(dim=(1, 2)) <= MAX_MV
    for name in diagnoses:
        label = test.label_names.index(name)
        first = int(
            ((test.labels[:, label] & shown_n).long() * len(test.label_names) * 2 - test.labels.sum(dim=1)).argmax()
        )
        order = torch.cdist(z_nF[first : first + 1], z_nF)[0].masked_fill(~shown_n, torch.inf).argsort().tolist()
        chosen += [i for i in [first, *(i for i in order if i != first)] if i not in chosen][: near + 1]
    return chosen


def said_of(reader: Reader, signals: Float[Tensor, "n 12 T"]) -> list[dict]:
    """For each record: `patches`, `masks` and `saliency` as explorers.ecg.viewer wants them; saliency of the diagnoses
    found likeliest.
    """
    masks = candidates(reader.num_tokens, signals.shape[-1] / reader.world.train.rate)
    errors = {name: predictability(reader, signals, hidden) for name, hidden in masks.items()}
    drops_nLN = saliency(reader, signals)
    logits_nL = reader.probe(ecg_world.encoded(reader.model.target_encoder, reader.world)(signals))
    names, said = reader.world.train.label_names, []
    for i in range(len(signals)):
        likely = logits_nL[i].topk(min(3, len(names))).indices.tolist()
        said.append(
            {
                "patches": reader.num_tokens,
                "masks": [
                    {"name": name, "hidden": hidden, "error": errors[name][i].tolist()}
                    for name, hidden in masks.items()
                ],
                "saliency": {names[label]: drops_nLN[i, label].tolist() for label in likely},
            }
        )
    return said


def records(reader: Reader, chosen: Sequence[int], near: int = 3) -> list[dict]:
    """The test records `chosen` as explorers.ecg.viewer wants them, each with its `near` nearest among them."""
    test = reader.world.test
    signals = test.signals[torch.tensor(chosen, device=reader.world.device)].float()
    z_nF = placed(reader, signals)
    apart_nn = torch.cdist(z_nF, z_nF)
    found = []
    for place, (i, said) in enumerate(zip(chosen, said_of(reader, signals))):
        order = [j for j in apart_nn[place].argsort().tolist() if j != place][:near]
        has = [test.label_names[label] for label in test.labels[i].nonzero().flatten().tolist()]
        found.append(
            {
                "name": f"test record {i}: {', '.join(has) or 'no finding'}",
                "leads": signals[place].cpu(),
                "rate": test.rate,
                "diagnoses": has or ["no finding"],
                "neighbours": [{"record": j, "distance": float(apart_nn[place, j])} for j in order],
                **said,
            }
        )
    return found


def examine(reader: Reader, chosen: Sequence[int], near: int = 3) -> Callable[[Float[Tensor, "12 T"]], dict]:
    """What explorers.ecg.live_viewer calls with a reader's own record; its neighbours are among the test records
    `chosen`.
    """

    def model(signals_12T: Float[Tensor, "12 T"]) -> dict:
        own = signals_12T[None].to(reader.world.device)
        apart_m = torch.cdist(
            placed(reader, own), placed(reader, reader.world.test.signals[torch.tensor(chosen, device=own.device)])
        )[0]
        order = apart_m.argsort().tolist()[:near]
        return {**said_of(reader, own)[0], "neighbours": [{"record": j, "distance": float(apart_m[j])} for j in order]}

    return model
