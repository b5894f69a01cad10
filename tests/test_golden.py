"""A rewrite that claims no change changes nothing: results at preset smoke equal those in tests/papers/*/golden.json.

On the kind of computer that a file was captured on (processor, instruction set, torch version) every loss of every step
and the trained weights agree to the last bit. On any other kind the test warns, and losses and weight norms agree
within the paper's TOLERANCE; bf16 is looser, since its rounding depends on the kernel. One thread, no download.

    python tests/test_golden.py --capture [PAPER ...]

stores the present results for this kind of computer and leaves the records of other kinds alone. For a change that is
meant to change results: delete the other kinds' records, capture, and say why in the commit.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from every_paper import PAPERS, TESTS, arms, case, with_changes

from jepa_lab.experiment import train_arm

BF16_TOLERANCE = 5e-3


def stored(slug: str) -> Path:
    return TESTS / "papers" / slug / "golden.json"


def kind() -> str:
    """What a result's last bit depends on: the processor's model, the instructions in use, torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    model = " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model"))
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return " / ".join([model, torch.backends.cpu.get_cpu_capability(), *bf16, f"torch {torch.__version__}"])


def trained_row(cfg, arm) -> dict:
    """The losses of all steps and the norm of the trained weights; the weights' bytes."""
    state = train_arm(cfg, arm, 0, progress=False)
    weights = torch.cat([p.detach().flatten() for p in state.model.parameters()])
    numbers = [*state.history["loss"], float(weights.double().norm())]
    return {"numbers": numbers, "sha256": hashlib.sha256(weights.numpy().tobytes()).hexdigest()}


def results(slug: str) -> dict[str, dict]:
    """Every arm at preset smoke, where that is in bf16 also in float32, and the paper's further numbers."""
    cfg, found = arms(slug)
    rows = {name: trained_row(cfg, with_changes(arm, log_every=1)) for name, arm in found.items()}
    for name, arm in found.items():
        if cfg.precision == "bf16":
            rows[f"{name}, float32"] = trained_row(cfg, with_changes(arm, log_every=1, precision="float32"))
    return rows | {name: {"numbers": numbers, "sha256": ""} for name, numbers in case(slug).numbers().items()}


def measure(slug: str) -> dict[str, dict]:
    """`results` on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return results(slug)
    finally:
        torch.set_num_threads(before)


def in_bits(measured: dict) -> dict:
    return {part: {**row, "numbers": [number.hex() for number in row["numbers"]]} for part, row in measured.items()}


def differences(measured: dict, records: dict, here: str, tolerance: float) -> list[str]:
    """What differs from the record of this kind of computer, bit by bit, or from all others within the tolerance."""
    if here in records:
        bits = in_bits(measured)
        return [part for part in records[here].keys() | bits if records[here].get(part) != bits.get(part)]
    found = []
    for other, rows in records.items():
        for part in rows.keys() | measured:
            ours = measured.get(part, {"numbers": []})["numbers"]
            theirs = [float.fromhex(number) for number in rows.get(part, {"numbers": []})["numbers"]]
            rel = max(tolerance, BF16_TOLERANCE) if f"{part}, float32" in measured else tolerance
            if ours != pytest.approx(theirs, rel=rel):
                found.append(f"{part} (against {other})")
    return found


def check(slug: str, measured: dict, records: dict, here: str, tolerance: float) -> None:
    if here not in records:
        known = ", ".join(records)
        says = f"{slug}: no golden record of {here!r}, only of {known}: compared within a tolerance, not bit by bit"
        warnings.warn(f"{says}. Capture one", stacklevel=2)
    assert differences(measured, records, here, tolerance) == []


@pytest.mark.parametrize("slug", PAPERS)
def test_smoke_results_are_the_stored_ones(slug):
    check(slug, measure(slug), json.loads(stored(slug).read_text()), kind(), case(slug).TOLERANCE)


ARM = {"I-JEPA": {"numbers": [0.5, 2.0], "sha256": "a"}}


def test_an_unknown_kind_of_computer_is_said_out_loud():
    records = {"a desk calculator": in_bits(ARM)}
    with pytest.warns(UserWarning, match="two: no golden record of 'here', only of a desk calculator: .* not bit by"):
        check("two", ARM, records, "here", 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check("two", ARM, records, "a desk calculator", 1e-4)


def test_one_changed_bit_is_seen_where_the_kind_matches_and_forgiven_elsewhere():
    bit = {"I-JEPA": {"numbers": [0.5 + 2**-53, 2.0], "sha256": "a"}}
    far = {"I-JEPA": {"numbers": [0.5, 2.001], "sha256": "a"}}
    other_weights = {"I-JEPA": {**ARM["I-JEPA"], "sha256": "b"}}
    records = {"here": in_bits(ARM)}
    assert differences(ARM, records, "here", 1e-4) == []
    for changed in (bit, other_weights, {}):
        assert differences(changed, records, "here", 1e-4) == ["I-JEPA"]
    assert differences(bit, records, "there", 1e-4) == []
    assert differences(far, records, "there", 1e-4) == ["I-JEPA (against here)"]


def capture(slugs: list[str]) -> None:
    for slug in slugs or PAPERS:
        records = json.loads(stored(slug).read_text()) if stored(slug).exists() else {}
        records |= {kind(): in_bits(measure(slug))}
        stored(slug).write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
        print(f"{stored(slug).relative_to(TESTS)}: captured for {kind()}")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--capture"] or set(sys.argv[2:]) - set(PAPERS):
        sys.exit(f"python tests/test_golden.py --capture [{' '.join(PAPERS)}] stores results of this kind of computer")
    capture(sys.argv[2:])
