"""What chapter 02 claims, with the papers' numbers. Imports no torch."""

from functools import partial

from jepa_lab.claims import Claim

CHAPTER = "02_predictors"
IJEPA, BYOL, SIMSIAM = "Assran et al. 2023 (I-JEPA)", "Grill et al. 2020 (BYOL)", "Chen & He 2021 (SimSiam)"
VICREG, LEJEPA = "Bardes et al. 2022 (VICReg)", "Balestriero & LeCun 2025 (LeJEPA)"
FEW = "accuracy with 10 labels per class, points"  # as in chapter 01; ImageNet's 1 % is 13 labels per class
RANK = "RankMe of the features at the end, directions"
LIMIT = "the alarm's limit"  # diagnostics.rank_limit
ONE_PERCENT, RESNET = "ViT-L/16, ImageNet, 1 % of the labels, linear probe", "ResNet-50, ImageNet, linear probe"

_accuracy = partial(Claim, chapter=CHAPTER, metric=FEW, direction="higher", margin=1.0)
_collapses = partial(Claim, chapter=CHAPTER, metric=RANK, direction="lower", margin=0.0, baseline=LIMIT)
_survives = partial(Claim, chapter=CHAPTER, metric=RANK, direction="higher", margin=0.0, baseline=LIMIT)

CLAIMS = (
    _accuracy(
        id="deeper-predictor",
        paper=IJEPA,
        statement="A predictor of twice the depth gives better features.",
        baseline="depth 2",
        paper_value="66.9 against 64.0",
        paper_source=f"predictor depth 12 against 6, {ONE_PERCENT}",
    ),
    _accuracy(
        id="narrow-predictor",
        paper=IJEPA,
        statement="A predictor narrower than the encoder gives better features than one as wide.",
        baseline="predictor as wide as the encoder",
        paper_value="70.7 against 68.4",
        paper_source=f"predictor width 384 against 1024, {ONE_PERCENT}",
    ),
    _collapses(
        id="no-predictor-collapses",
        paper=BYOL,
        statement="Without a predictor the features collapse, although EMA and stop-gradient stay.",
        paper_value="0.2 against 72.5",
        paper_source=f"table 5b, {RESNET}",
    ),
    _collapses(
        id="no-stop-gradient-collapses",
        paper=SIMSIAM,
        statement="Without EMA and stop-gradient the features collapse.",
        paper_value="0.1 against 67.7",
        paper_source=f"figure 2, {RESNET}",
    ),
    _collapses(
        id="no-ema-collapses",
        paper=BYOL,
        statement="Without EMA the features collapse, although the stop-gradient stays.",
        paper_value="0.3 against 72.5",
        paper_source=f"table 5a, decay 0 against 0.99, {RESNET}",
    ),
    _survives(
        id="no-ema-survives",
        paper=SIMSIAM,
        statement="Without EMA the features do not collapse as long as the stop-gradient stays.",
        paper_value="67.7",
        paper_source=f"figure 2, {RESNET}",
    ),
    _accuracy(
        id="slower-ema",
        paper=BYOL,
        statement="An EMA that remembers a twentieth of the run gives better features than a constant decay of 0.9.",
        baseline="EMA 0.9",
        paper_value="72.5 against 68.4",
        paper_source=f"table 5a, decay 0.99 against 0.9, {RESNET}",
    ),
    _accuracy(
        id="faster-ema",
        paper=BYOL,
        statement="An EMA that remembers a twentieth of the run gives better features than a constant decay of 0.999.",
        baseline="EMA 0.999",
        paper_value="72.5 against 69.8",
        paper_source=f"table 5a, decay 0.99 against 0.999, {RESNET}",
    ),
    Claim(
        id="fast-predictor",
        chapter=CHAPTER,
        paper=BYOL,
        statement="Without EMA, a predictor that learns 10 times faster keeps more directions"
        " (the small models of the phase diagram).",
        metric=RANK,
        direction="higher",
        margin=1.0,
        baseline="predictor at the common rate",
        paper_value="66.5 against 0.3",
        paper_source=f"section 5, removed target network, {RESNET}",
    ),
    _survives(
        id="sigreg-holds",
        paper=LEJEPA,
        statement="SIGReg keeps the features from collapsing without EMA and stop-gradient.",
        paper_value="stated without a number",
        paper_source="abstract",
    ),
    _accuracy(
        id="sigreg-matches",
        paper=LEJEPA,
        statement="SIGReg instead of EMA and stop-gradient costs at most 2 points.",
        margin=-2.0,
        baseline="I-JEPA",
        paper_value="not compared at equal steps",
        paper_source="our bound",
    ),
    _survives(
        id="vicreg-holds",
        paper=VICREG,
        statement="Variance and covariance terms keep the features from collapsing without EMA and stop-gradient.",
        paper_value="68.6; without them: collapse",
        paper_source=f"table 4, {RESNET}, 100 epochs",
    ),
    Claim(
        id="loss-misleads",
        chapter=CHAPTER,
        paper=IJEPA,
        statement="The collapsed run has the lower loss.",
        metric="loss over the last log interval",
        direction="lower",
        margin=0.0,
        baseline="I-JEPA",
        paper_value="not reported",
        paper_source="our control",
    ),
    _accuracy(
        id="beats-random",
        paper=IJEPA,
        statement="The frozen encoder beats the same encoder at random initialisation.",
        baseline="random initialisation",
        paper_value="not reported",
        paper_source="our control",
    ),
)
