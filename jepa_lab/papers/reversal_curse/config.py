"""Settings of the reversal-curse chapter (`Config`) and its presets.

At the width of a laptop some settings differ from the paper's. All variants have more heads and a narrower semantic
MLP, so that the relation gates the subject and is not memorised with it. They forget much faster: rate times weight
decay is .032 on names and .02 on concepts; the paper's .00001 suits 3 million steps. JEPA has a LayerNorm before the
scalar product also without a memory; the paper has one only with it. The rate falls by a cosine unless `hold` keeps it
at its peak, as in the preset `paper`, to the end.
"""

from dataclasses import dataclass

from jepa_lab import configs, train
from jepa_lab.data.facts import real
from jepa_lab.papers.reversal_curse.variants import VARIANTS


@dataclass(frozen=True)
class Config(train.Config):
    """The facts, the models, and how long each experiment trains. Defaults: preset laptop."""

    num_steps: int = 3500  # of all variants on names
    batch_size: int = 256
    lr: float = 8e-3
    warmup: float = 0.02
    weight_decay: tuple[float, float] = (4.0, 4.0)
    betas: tuple[float, float] = (0.9, 0.99)  # paper: 0.9, 0.999
    log_every: int = 500

    # Facts
    num_taught: int = 400  # |E_A|; paper: 2.5, 50 and 100 thousand
    num_tested: int = 240  # |E_B| = 0.6 |E_A|
    num_pairs: int = 3  # R; paper: 6
    multiplicity: int = 2  # entities per name token; paper: 10 and 20

    # Models
    width: int = 48
    heads: int = 12
    recognition_layers: int = 1
    semantic_layers: int = 1
    recognition_hidden: int = 4  # MLP width in widths, as in the paper
    semantic_hidden: int = 2  # paper: 4
    dropout: float = 0.0  # paper: 0.1

    # Experiments
    patient_steps: int = 7000  # of the long experiment on patience
    concept_steps: int = 3000  # of the autoregressive variants on concepts
    concept_lr: float = 1e-2
    concept_weight_decay: float = 2.0
    multiplicities: tuple[int, ...] = (1, 2, 4)
    recognition_depths: tuple[int, ...] = (1, 2)

    # Sums
    modulus: int = 23  # paper: 10,007
    per_value: int = 10  # core entities per value, as in the paper
    increments: tuple[int, int] = (3, 7)  # paper: drawn from 10 to 49
    num_problems: int = 60  # paper: 20
    branching: int = 4  # paper: 10, 20, 30, 40
    branchings: tuple[int, ...] = (2, 4, 8)  # of the long experiment
    chain_depth: int = 2  # levels below the target
    chain_steps: int = 800

    ranked: int = 100  # reversed questions for which a spelling model ranks all whole names
    arm: str = "JEPA"  # what `train_reference` trains, a name in VARIANTS
    language_weight: float = 0.0  # of the paper's optional loss on the spelled answer; 0 as in its scripts
    layer_norm: bool = True  # on prediction and candidates; False: z / RMS(z) against raw candidates (paper's JEPA)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arm not in VARIANTS:
            raise ValueError(f"no arm {self.arm!r}; there are: {'; '.join(VARIANTS)}")
        if not 2 <= self.num_pairs <= len(real.PAIRS):
            raise ValueError(
                f"num_pairs = {self.num_pairs}: choose 2 to {len(real.PAIRS)}; with fewer there is no other partner to "
                "beat, and there are no words for more"
            )


PRESETS = {
    "smoke": Config(
        num_steps=8,
        batch_size=32,
        log_every=4,
        num_taught=40,
        num_tested=24,
        width=16,
        heads=4,
        patient_steps=8,
        concept_steps=8,
        chain_steps=4,
        modulus=7,
        per_value=2,
        increments=(1, 3),
        num_problems=2,
        branching=2,
        branchings=(1, 2),
        ranked=4,
    ),
    "laptop": Config(),
    "long": Config(chain_steps=1000),  # the long experiments at the same size
    "large": Config(  # the paper's smallest size, R = 6; width, heads, rate and schedule chosen on pilot seed 100
        batch_size=1024,
        warmup=0.04,
        hold=0.7,
        log_every=250,
        num_taught=2500,
        num_tested=1500,
        num_pairs=6,
        width=128,
        heads=64,
        semantic_hidden=1,
        concept_steps=2500,
    ),
    "gpu": Config(
        num_steps=60_000,
        batch_size=1024,
        lr=1e-3,
        weight_decay=(1.0, 1.0),
        log_every=2000,
        num_taught=10_000,
        num_tested=6000,
        num_pairs=6,
        multiplicity=10,
        width=256,
        heads=32,
        concept_steps=60_000,
        concept_lr=2e-3,
        concept_weight_decay=1.0,
        precision="bf16",
    ),
    "paper": Config(
        num_steps=3_000_000,
        batch_size=1024,
        lr=1e-4,
        warmup=2000 / 3_000_000,
        hold=1.0,
        weight_decay=(0.1, 0.1),
        betas=(0.9, 0.999),
        log_every=5000,
        num_taught=50_000,
        num_tested=30_000,
        num_pairs=6,
        multiplicity=10,
        width=768,
        heads=12,
        concept_steps=3_000_000,
        concept_lr=1e-4,
        concept_weight_decay=0.1,
        semantic_hidden=4,
        dropout=0.1,
        layer_norm=False,
        precision="bf16",
    ),
}


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, long, large, gpu or paper. Unknown names and unknown overrides raise
    ValueError.
    """
    return configs.choose(PRESETS, name, overrides)


def long_preset(name: str) -> str:
    """The preset of a long experiment."""
    return "large" if name == "large concepts" else "long"


def long_config(name: str) -> dict:
    """The config in the record of a long experiment: its preset and the experiment's name."""
    return {"experiment": name} | configs.plain(preset(long_preset(name)))
