"""What chapter 01 claims, with the papers' numbers. Imports no torch."""

from functools import partial

from jepa_lab.claims import Claim

CHAPTER, PAPER = "01_masking", "Assran et al. 2023 (I-JEPA)"
FEW = "accuracy with 10 labels per class, points"  # ImageNet's 1 % is 13 labels per class
LINEAR = "accuracy of a linear probe on 5,000 labels, points"
ABLATION = "ImageNet, 1 % of the labels, linear probe"

_claim = partial(Claim, chapter=CHAPTER, paper=PAPER, metric=FEW, direction="higher", margin=1.0)
_control = partial(_claim, paper_value="not reported", paper_source="our control")

CLAIMS = (
    _claim(
        id="features-beat-pixels",
        statement="Predicting features beats predicting pixels at equal steps.",
        baseline="pixel targets",
        paper_value="66.9 against 40.7",
        paper_source=f"ablation of the target, ViT-L/16, {ABLATION}",
    ),
    _claim(
        id="blocks-beat-random",
        statement="Multi-block masks beat masks of scattered tokens.",
        baseline="random tokens",
        paper_value="54.2 against 17.6",
        paper_source=f"ablation of the masking strategy, ViT-B/16, {ABLATION}",
    ),
    _claim(
        id="blocks-beat-single",
        statement="Several blocks beat one block that hides half of the image.",
        baseline="one large block",
        paper_value="54.2 against 20.2",
        paper_source=f"ablation of the masking strategy, ViT-B/16, {ABLATION}",
    ),
    _claim(
        id="four-beat-one",
        statement="Four target blocks beat one.",
        baseline="1 target block",
        paper_value="54.2 against 9.0",
        paper_source=f"ablation of the number of targets, ViT-B/16, {ABLATION}",
    ),
    _claim(
        id="output-beats-input",
        statement="Masking the target encoder's output beats masking its input.",
        baseline="masked at the input",
        paper_value="67.3 against 56.1",
        paper_source=f"ablation, ViT-H/16, 300 epochs, {ABLATION}",
    ),
    _control(
        id="beats-random",
        statement="On centred garments, the frozen encoder beats the same encoder at random initialisation.",
        baseline="random initialisation",
    ),
    _control(
        id="beats-pixels",
        statement="On centred garments, the frozen encoder beats raw pixels.",
        baseline="raw pixels",
    ),
    _control(
        id="clutter-beats-random",
        statement="On cluttered canvases, the frozen encoder beats the same encoder at random initialisation.",
        metric=LINEAR,
        baseline="random initialisation",
    ),
    _control(
        id="clutter-beats-pixels",
        statement="On cluttered canvases, the frozen encoder beats raw pixels (the better of linear probe and kNN).",
        metric=LINEAR,
        baseline="raw pixels",
    ),
)
