"""Settings of the ECG chapter (`Config`) and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from jepa_lab import configs, train
from jepa_lab.data.ecg import records as ecg


@dataclass(frozen=True)
class Config(train.Config):
    """One small ECG-JEPA, its records and masks, its rivals, and what is trained on labels. Defaults: preset laptop."""

    num_steps: int = 720
    batch_size: int = 16  # on a pilot seed 1,000 steps of it were as good as 800 of 32, in 70 % of the time
    lr: float = 2e-3  # paper: 1e-3 at batch 2048
    weight_decay: tuple[float, float] = (0.01, 0.1)
    ema_decay: tuple[float, float] = (0.99, 0.9995)  # used where ema_memory is None; paper: from 0.998, 100,000 steps
    betas: tuple[float, float] = (0.9, 0.99)
    log_every: int = 60

    # Records
    # "simulated", "ptb-xl", or folders of WFDB records with commas between; part of a record's name
    data: Annotated[str, configs.Folders(("simulated", "ptb-xl"), several=True)] = "simulated"
    task: str = "superclass"  # PTB-XL's labels
    rate: int = 100  # Hz; paper: 500
    seconds: float = 10.0
    num_train: int = 4000  # records, at most; PTB-XL has 17,418 in folds 1 to 8
    num_validation: int = 500
    num_test: int = 1500
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)  # of the training labels

    # Encoder and predictor
    patch: int = 50  # samples: 500 ms; paper: 25 at 500 Hz, 50 ms
    width: int = 64
    depth: int = 3
    heads: int = 4
    predictor_width: int = 32
    predictor_depth: int = 2

    # Masks
    keep: float = 0.2  # share of the tokens that the encoder sees; paper: drawn from 0.15 to 0.25 for every batch
    num_blocks: int = 3  # hidden stretches, which may touch; the paper draws their number: 2.7 separate ones on average
    min_block: int = 1  # tokens; paper: 5 % of the record, 0.5 s
    sweep_keep: tuple[float, ...] = (0.5, 0.1)  # beside `keep`
    sweep_blocks: tuple[int, ...] = (1, 6)  # hidden stretches, beside `num_blocks` and as many as tokens

    # Rivals
    rival_lr: tuple[float, float] = (5e-3, 5e-3)  # masked auto-encoder, SimCLR: the best of three on a pilot seed
    view: float = 0.5  # share of the record in each of SimCLR's two views
    temperature: float = 0.1
    augment: tuple[float, float] = (0.2, 0.1)  # spread of the leads' gains (log), of the noise (deviations)

    # Snapshots and labelled training
    num_snapshots: int = 4  # encoders of the reference run that are probed, evenly over its steps, the last included
    label_steps: tuple[int, int, int] = (600, 400, 150)  # head alone; all weights; second stage
    label_lr: tuple[float, float, float] = (3e-2, 2e-3, 3e-3)  # of the same three
    crop: int = 5  # tokens: 2.5 s
    stride: int = 2  # tokens between crops of a test record: 1 s; paper: 1.25 s, which is no whole number of our tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise ValueError(f"keep is the share of the record that the encoder sees, between 0 and 1, got {self.keep}")
        if round(self.rate * self.seconds) % self.patch:
            raise ValueError(
                f"patches of {self.patch} samples do not tile {self.seconds:g} s at {self.rate} Hz; choose a divisor"
            )

    @property
    def num_tokens(self) -> int:
        return round(self.rate * self.seconds) // self.patch


# Short runs: the EMA copy, which is probed, remembers this share of the run, so that it is as fresh as the encoder. On
# pilot seeds 100 and 101 the two then differ by at most 0.1 points of validation macro-AUC in all arms; with the decay
# rising from 0.99 to 0.9995 the copy lags by 0.3 to 4.5 points.
EMA_MEMORY = 0.05

SMOKE = Config(
    num_steps=8,
    ema_memory=0.5,  # 4 steps: the share of longer runs would be less than one, which is no EMA at all
    log_every=4,
    batch_size=16,
    width=32,
    depth=2,
    heads=2,
    predictor_width=16,
    predictor_depth=1,
    num_train=240,
    num_validation=100,
    num_test=100,
    label_steps=(3, 3, 3),
    num_snapshots=2,
)
LAPTOP = Config(ema_memory=EMA_MEMORY)
# ViT-S; the ten public databases of the paper are folders of WFDB records, see `Config.data`.
PAPER = Config(
    num_steps=100_000,
    batch_size=2048,
    lr=1e-3,
    rival_lr=(1e-3, 1e-3),
    ema_decay=(0.998, 0.9995),
    precision="bf16",
    rate=500,
    patch=25,
    width=384,
    depth=8,
    heads=6,
    predictor_width=192,
    predictor_depth=8,
    min_block=10,
    task="all",
    num_train=20_000,
    num_validation=2500,
    num_test=2500,
    log_every=1000,
    label_steps=(5000, 10_000, 5000),
    label_lr=(1e-3, 1e-3, 1e-4),
    crop=50,
    stride=25,
    num_snapshots=10,
)
# ViT-XS on folds 1 to 8 of PTB-XL: the cheapest of the paper's experiments, 4 % of its steps, an eighth of its batch.
GPU = replace(
    PAPER,
    num_steps=4000,
    batch_size=256,
    ema_decay=(0.99, 0.9995),
    width=192,
    heads=4,
    predictor_width=96,
    log_every=500,
    label_steps=(1000, 1000, 1000),
    num_snapshots=4,
)


def available() -> str:
    """The records that presets name: "ptb-xl" where the cache holds it, else "simulated"."""
    return "simulated" if ecg.ptb_xl_folder() is None else "ptb-xl"


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Its records are PTB-XL where the cache holds it, else simulated.

    Unknown names and overrides raise ValueError.
    """
    presets = {"smoke": SMOKE, "laptop": LAPTOP, "gpu": GPU, "paper": PAPER}
    return configs.choose(presets, name, {"data": available(), **overrides})
