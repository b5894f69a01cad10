"""What chapter 07 tests: the claims of ECG-JEPA (Weimann & Conrad 2024) and of our controls, with their margins."""

from __future__ import annotations

from functools import partial

from jepa_lab.claims import Claim

CHAPTER, PAPER = "07_ecg_jepa", "Weimann & Conrad 2024 (ECG-JEPA)"
TENTH = "macro-AUC of a logistic probe, 10 % of the labels, points"
TUNED = "macro-AUC after labelled training of all weights, points"
LINEAR, FULL = "PTB-XL, all statements, frozen encoder, linear head", "PTB-XL, all statements, all weights trained"
NOTES = "third-party notes on the paper"

_claim = partial(
    Claim,
    chapter=CHAPTER,
    paper=PAPER,
    metric=TENTH,
    direction="higher",
    paper_value="not reported",
    paper_source="our control",
)

CLAIMS = (
    _claim(
        id="beats-random",
        statement="The frozen encoder beats the same encoder at random initialisation.",
        baseline="random initialisation",
        margin=1.0,
        paper_value="0.931 against 0.815",
        paper_source=f"ViT-XS pre-trained on PTB-XL, {LINEAR}; authors' repository",
    ),
    _claim(
        id="beats-statistics",
        statement="The frozen encoder beats each lead's deviation, mean, largest and smallest value.",
        baseline="lead statistics",
        margin=1.0,
    ),
    _claim(
        id="beats-hand-made",
        statement="The frozen encoder beats the hand-made features that do best on validation records.",
        baseline="best hand-made features",
        margin=1.0,
    ),
    _claim(
        id="beats-simclr",
        statement="Predicting hidden time beats SimCLR on the same encoder at equal steps.",
        baseline="SimCLR",
        margin=1.0,
        paper_value="0.938 against 0.883",
        paper_source=f"ViT-S against SimCLR with xresnet1d50, {LINEAR}; authors' repository",
    ),
    _claim(
        id="beats-auto-encoder",
        statement="Predicting latents of hidden time beats predicting its signal, at equal steps.",
        baseline="masked auto-encoder",
        margin=1.0,
        paper_value="0.928 against 0.838",
        paper_source="ViT-S against ST-MEM with ViT-B on a split of its own, PTB-XL, super-classes, linear head; "
        "authors' repository",
    ),
    *(
        _claim(
            id=f"few-labels-{share}",
            statement=f"With {share} % of the labels, training from the pre-trained weights beats training "
            "from scratch.",
            metric=TUNED,
            baseline="from scratch",
            margin=1.0,
        )
        for share in (1, 5, 10)
    ),
    _claim(
        id="gain-shrinks",
        statement="That gain is larger with 1 % of the labels than with all of them.",
        metric="gain in macro-AUC, points",
        baseline="the gain with all labels",
        margin=1.0,
        paper_value="0.940 against 0.911 with all labels",
        paper_source=f"ViT-XS pre-trained on PTB-XL, {FULL}; authors' repository",
    ),
    _claim(
        id="hide-80",
        statement="Hiding 80 % of the record is within half a point of the best other share, or better.",
        baseline="best other share",
        margin=-0.5,
        paper_value="75 to 85 %, used throughout",
        paper_source="authors' configuration",
    ),
    _claim(
        id="stretches",
        statement="Hiding the record in the configured number of stretches is within half a point of the best other "
        "number, or better.",
        baseline="best other number of stretches",
        margin=-0.5,
        paper_value="drawn for every record",
        paper_source="authors' code",
    ),
    _claim(
        id="blocks-beat-scattered",
        statement="Hiding long stretches beats hiding as much in scattered tokens.",
        baseline="scattered tokens",
        margin=0.5,
        paper_value="stretches of at least 0.5 s, used throughout",
        paper_source="authors' configuration",
    ),
    _claim(
        id="peaks-early",
        statement="The best of the encoders from before the end of training, chosen on validation records, "
        "beats the last one.",
        baseline="at the last step",
        margin=0.5,
        paper_value="best for a linear head after 10,000 of 100,000 steps",
        paper_source=NOTES,
    ),
    _claim(
        id="peaks-before-loss",
        statement="The probe is best, on validation records, at an earlier step than the one where the loss is lowest.",
        metric="share of the training steps, %",
        direction="lower",
        baseline="where the loss is lowest",
        margin=10.0,
        paper_value="best for a linear head at 10 %; the loss falls to the end",
        paper_source=NOTES,
    ),
)
