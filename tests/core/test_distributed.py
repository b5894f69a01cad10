"""Two processes train as one: the same masks, weights, EMA, history and skipped batches; a run that was cut goes on."""

import subprocess
import sys

import pytest
import torch

from jepa_lab import distributed, masks
from jepa_lab.masks import Masks

# Run once by torchrun on two gloo processes and once plainly; writes what the run ended with, one file per rank.
PROGRAM = """if True:
    import sys
    from dataclasses import replace
    from functools import partial
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from jepa_lab import distributed, losses, masks, train
    from jepa_lab.encoders import Encoder
    from jepa_lab.predictors import Predictor

    assert distributed.start() == "cpu"
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    assert distributed.world() == processes
    sampler = partial(masks.multi_block, (4, 4), num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)
    patches = torch.randint(0, 256, (40, 16, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    cfg = train.Config(num_steps=6, batch_size=8, log_every=3)
    directions_DS = torch.randn(16, 32, generator=torch.Generator().manual_seed(8))

    def whole_batch_statistics(model, patches_BNP, masks):
        z_nD = model.encoder(patches_BNP, masks.context_idx).mean(dim=1)
        statistics = losses.variance(z_nD) + losses.covariance(z_nD) + losses.info_nce(z_nD, z_nD.roll(1, dims=1))
        statistics = statistics + losses.sigreg(z_nD, directions_DS=directions_DS)
        return statistics + train.jepa_objective(model, patches_BNP, masks)

    def cast(part):  # samples of more than 240 in their first pixel poison a batch on one of the processes only
        batch = (part.float() - 128) / 64
        return torch.where((part[:, :1, :1] > 240) & poison, torch.nan, batch)

    def trained(objective, cast=cast, **how):
        torch.manual_seed(0)
        run = train.start(train.JEPA(Encoder((4, 4), 9, 16, 2, 2), Predictor((4, 4), 16, 8, 1, 2, 16)), 0, "cpu")
        for group in run.optimizer.param_groups:  # Adam would blow up rounding where a gradient is zero, as that of a key bias
            group["eps"] = 1e-4
        train.fit(run, cfg, patches, cast, sampler, objective, watch=patches[:20], progress=False, **how)
        weights = torch.cat([p.detach().flatten() for p in run.model.parameters()])
        return {"weights": weights, "loss": run.history["loss"], "rankme": run.history["rankme"], "bad_steps": run.bad_steps}

    def cut(part):
        casts.append(part)
        if len(casts) == 7:  # in step 5: the log of step 3 casts twice
            raise KeyboardInterrupt
        return cast(part)

    poison, results, casts = torch.tensor(False), {}, []
    results["jepa"] = trained(train.jepa_objective)
    results["statistics"] = trained(whole_batch_statistics)
    results["micro"] = trained(train.jepa_objective, micro_batches=2, checkpoint=folder / f"of{processes}.pt", save_every=6)
    try:
        trained(train.jepa_objective, cut, checkpoint=folder / f"cut{processes}.pt", save_every=3)
    except KeyboardInterrupt:
        assert (folder / f"cut{processes}.pt").exists()
        results["resumed"] = trained(train.jepa_objective, checkpoint=folder / f"cut{processes}.pt")
    poison = torch.tensor(True)
    results["poison"] = trained(train.jepa_objective)
    torch.save(results, folder / f"{processes}-{distributed.rank()}.pt")
    distributed.stop()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{(processes, rank): what each run ended with}."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "program.py").write_text(PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for processes, launcher in ((1, []), (2, torchrun)):
        command = [sys.executable, *launcher, str(folder / "program.py"), str(folder), str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "of2.pt").exists()
    return {key: torch.load(folder / f"{key[0]}-{key[1]}.pt") for key in ((1, 0), (2, 0), (2, 1))}


@pytest.mark.parametrize("kind", ["jepa", "statistics", "micro", "resumed", "poison"])
def test_two_gloo_processes_equal_one(results, kind):
    one, first, second = (results[key][kind] for key in ((1, 0), (2, 0), (2, 1)))
    assert torch.equal(first["weights"], second["weights"]) and first["loss"] == second["loss"]
    torch.testing.assert_close(first["weights"], one["weights"], rtol=0, atol=2e-6)
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-4) and first["rankme"] == pytest.approx(
        one["rankme"], rel=1e-3
    )
    assert first["bad_steps"] == second["bad_steps"] == one["bad_steps"]


@pytest.mark.parametrize("key", [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one_on_as_many_processes(results, key):
    resumed, whole = results[key]["resumed"], results[key]["jepa"]
    assert (
        torch.equal(resumed["weights"], whole["weights"])
        and resumed["loss"] == whole["loss"]
        and resumed["rankme"] == whole["rankme"]
    )


def test_the_comparison_could_fail(results):
    """The runs moved far more than the tolerance, and the poison reached some batches but not all."""
    one = results[1, 0]
    assert (one["jepa"]["weights"] - one["statistics"]["weights"]).abs().max() > 1e-2
    assert 0 < one["poison"]["bad_steps"] < 6


def test_micro_batches_equal_the_whole_batch(results):
    one = results[1, 0]
    torch.testing.assert_close(one["micro"]["weights"], one["jepa"]["weights"], rtol=0, atol=2e-6)
    assert one["micro"]["loss"] == pytest.approx(one["jepa"]["loss"], rel=1e-5)


def drawn(batch_size=8):
    return masks.random_tokens(
        (4, 4), batch_size, torch.Generator().manual_seed(0), num_targets=1, target_size=2, num_context=6
    )


def test_shares_of_a_batch_are_its_rows_in_order():
    seen = drawn()
    parts = list(distributed.share(torch.arange(8), seen, micro_batches=4))
    assert [idx.tolist() for idx, _ in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert torch.equal(torch.cat([m.context_idx for _, m in parts]), seen.context_idx)
    assert torch.equal(torch.cat([m.target_idx for _, m in parts]), seen.target_idx)
    assert all(isinstance(m, Masks) and m.grid == (4, 4) for _, m in parts)


@pytest.mark.parametrize("micro_batches", [0, 3, 16])
def test_a_batch_that_does_not_divide_is_refused(micro_batches):
    with pytest.raises(ValueError, match="does not divide into 1 processes"):
        list(distributed.share(torch.arange(8), drawn(), micro_batches))


def test_with_one_process_everything_is_the_identity():
    z = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(z) is z and distributed.mean(z) is z
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.agree(torch.tensor(True)) and not distributed.agree(torch.tensor(False))
