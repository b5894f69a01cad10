"""Two processes train as one: the same masks, weights, EMA, history and skipped batches; a run that was cut goes on."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa_lab import distributed, masks
from jepa_lab.masks import Masks

# Run once by torchrun on two gloo processes and once plainly; writes what the runs ended with, one file per rank.
PROGRAM = """if True:
    import sys
    from dataclasses import replace
    from functools import partial
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import tiny
    import torch
    torch.set_num_threads(1)
    from jepa_lab import distributed, losses, train
    from jepa_lab.experiment import collapse_panel
    from jepa_lab.objectives import jepa_objective
    from jepa_lab.tasks import TokenTask

    assert distributed.join() == "cpu"
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    assert distributed.world() == processes
    # Adam would blow up rounding where a gradient is zero, as that of a key bias
    cfg = train.Config(num_steps=6, batch_size=8, log_every=3, eps=1e-4)
    directions_DS = torch.randn(16, 32, generator=torch.Generator().manual_seed(8))

    def whole_batch_statistics(model, patches_BNP, masks):
        z_nD = model.encoder(patches_BNP, masks.context_idx).mean(dim=1)
        statistics = losses.variance(z_nD) + losses.covariance(z_nD) + losses.info_nce(z_nD, z_nD.roll(1, dims=1))
        statistics = statistics + losses.sigreg(z_nD, directions_DS=directions_DS)
        return statistics + jepa_objective(model, patches_BNP, masks), {{"statistics": statistics}}

    def batch_norm(model, patches_BNP, masks):
        return jepa_objective(model, model.norm(patches_BNP), masks)

    def poisoned(part):  # samples of more than 240 in their first pixel poison a batch on one of the processes only
        return torch.where(part[:, :1, :1] > 240, torch.nan, tiny.to_batch(part))

    def trained(objective=jepa_objective, to_batch=tiny.to_batch, **how):
        changes = {{"optimizer": how.pop("optimizer", "adamw")}}
        model = tiny.model()
        if objective is batch_norm:
            model.norm = torch.nn.BatchNorm1d(16)
        state = train.start(model, replace(cfg, **changes), 0)
        measure = collapse_panel(tiny.patches(20), tiny.to_batch, tiny.SAMPLER)
        task = TokenTask(tiny.patches(), to_batch, tiny.SAMPLER)
        tiny.fit(replace(cfg, **changes), state, task, objective, measure=measure, **how)
        tensors = {{name: t for name, t in state.model.state_dict().items()}}
        return {{"tensors": tensors, "history": state.history}}

    def cut(state):
        raise KeyboardInterrupt

    results = {{"jepa": trained(), "statistics": trained(whole_batch_statistics), "batch norm": trained(batch_norm)}}
    results["muon"] = trained(optimizer="muon")
    results["micro"] = trained(micro_batches=2, checkpoint=folder / f"of{{processes}}.pt", save_every=6)
    try:
        trained(checkpoint=folder / f"cut{{processes}}.pt", save_every=3, at={{4: cut}})
    except KeyboardInterrupt:
        assert (folder / f"cut{{processes}}.pt").exists()
        results["resumed"] = trained(checkpoint=folder / f"cut{{processes}}.pt")
    results["poison"] = trained(to_batch=poisoned)
    torch.save(results, folder / f"{{processes}}-{{distributed.rank()}}.pt")
    distributed.leave()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{(processes, rank): what each run ended with}."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "program.py").write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for processes, launcher in ((1, []), (2, torchrun)):
        command = [sys.executable, "-W", "error::FutureWarning", *launcher, folder / "program.py", folder, processes]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "broadcast_buffers" not in done.stderr
    assert (folder / "of2.pt").exists()
    return {key: torch.load(folder / f"{key[0]}-{key[1]}.pt") for key in ((1, 0), (2, 0), (2, 1))}


@pytest.mark.parametrize("kind", ["jepa", "statistics", "batch norm", "muon", "micro", "resumed", "poison"])
def test_two_gloo_processes_equal_one(results, kind):
    alone, first, second = (results[key][kind] for key in ((1, 0), (2, 0), (2, 1)))
    assert all(torch.equal(first["tensors"][name], second["tensors"][name]) for name in first["tensors"])
    assert first["history"] == second["history"]
    rounding = 2e-4 if kind == "muon" else 5e-6  # Muon orthogonalises in bfloat16
    torch.testing.assert_close(first["tensors"], alone["tensors"], rtol=0, atol=rounding)
    for name, values in alone["history"].items():
        assert first["history"][name] == pytest.approx(values, rel=1e-2 if kind == "muon" else 1e-3), name


@pytest.mark.parametrize("key", [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one_on_as_many_processes(results, key):
    resumed, whole = results[key]["resumed"], results[key]["jepa"]
    assert all(torch.equal(resumed["tensors"][name], whole["tensors"][name]) for name in whole["tensors"])
    assert resumed["history"] == whole["history"]


def test_the_comparison_could_fail(results):
    """The runs moved far more than the tolerance, and the poison reached some batches but not all."""
    alone = results[1, 0]
    weight = "predictor.out.weight"
    for other in ("statistics", "batch norm", "muon"):
        assert (alone["jepa"]["tensors"][weight] - alone[other]["tensors"][weight]).abs().max() > 2e-3
    assert alone["batch norm"]["tensors"]["norm.running_mean"].abs().max() > 1e-2
    assert 0 < alone["poison"]["history"]["bad_steps"][-1] < 6


def test_micro_batches_equal_the_whole_batch(results):
    alone = results[1, 0]
    torch.testing.assert_close(alone["micro"]["tensors"], alone["jepa"]["tensors"], rtol=0, atol=2e-6)
    assert alone["micro"]["history"]["loss"] == pytest.approx(alone["jepa"]["history"]["loss"], rel=1e-5)


def drawn(batch_size=8):
    generator = torch.Generator().manual_seed(0)
    return masks.random_tokens((4, 4), batch_size, generator, num_targets=1, target_size=2, num_context=6)


def test_shares_of_a_batch_are_its_rows_in_order():
    seen = drawn()
    parts = list(distributed.share(torch.arange(8), seen, micro_batches=4))
    assert [idx.tolist() for idx, _ in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert torch.equal(torch.cat([m.context_idx for _, m in parts]), seen.context_idx)
    assert torch.equal(torch.cat([m.target_idx for _, m in parts]), seen.target_idx)
    assert all(isinstance(m, Masks) and m.grid == (4, 4) for _, m in parts)


@dataclass(frozen=True)
class Windows:
    masks: Masks
    noise: Tensor
    names: tuple


def test_several_rows_of_a_sample_stay_with_their_sample():
    """Three windows a sample: row 3 b + w; nested records and plain values come along."""
    rows = torch.arange(12)[:, None]
    windows = Windows(Masks(rows, rows[:, None], (2, 2)), torch.arange(4.0), ("a", "b"))
    parts = [part for _, part in distributed.share(torch.arange(4), windows, micro_batches=2)]
    assert [part.masks.context_idx.flatten().tolist() for part in parts] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert [part.noise.tolist() for part in parts] == [[0, 1], [2, 3]]
    assert parts[1].names == ("a", "b") and parts[1].masks.grid == (2, 2)
    assert [part for _, part in distributed.share(torch.arange(4), None)] == [None]
    both = {"a": (torch.arange(4), None)}
    assert [part["a"][0].tolist() for _, part in distributed.share(torch.arange(4), both, 2)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("tensor", [torch.zeros(9, 2), torch.tensor(1.0), torch.zeros(3)])
def test_rows_that_belong_to_no_sample_are_refused(tensor):
    with pytest.raises(ValueError, match="its first axis must be a multiple of the batch"):
        list(distributed.share(torch.arange(4), (tensor,)))


@pytest.mark.parametrize("micro_batches", [0, 3, 16])
def test_a_batch_that_does_not_divide_is_refused(micro_batches):
    with pytest.raises(ValueError, match="does not divide into 1 processes"):
        list(distributed.share(torch.arange(8), drawn(), micro_batches))


@pytest.mark.parametrize("norm, shape", [(nn.BatchNorm1d(3), (8, 3)), (nn.BatchNorm2d(3), (8, 3, 2, 2))])
def test_a_synchronised_batch_norm_keeps_weights_and_buffers(norm, shape):
    model = nn.Sequential(norm)
    names, tensors = list(model.state_dict()), [*model.parameters(), *model.buffers()]
    distributed.synchronise_batch_norms(model)
    assert list(model.state_dict()) == names and model[0] is not norm
    assert all(a is b for a, b in zip(tensors, [*model.parameters(), *model.buffers()]))
    x = torch.randn(shape)
    torch.testing.assert_close(model(x), norm.train()(x))


def test_with_one_process_everything_is_the_identity():
    z = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(z) is z and distributed.mean(z) is z
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.agree(torch.tensor(True)) and not distributed.agree(torch.tensor(False))


def test_a_world_size_that_another_program_left_behind_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="WORLD_SIZE is 4, but RANK.* not set.*torchrun.*unset WORLD_SIZE"):
        distributed.join()


@pytest.mark.parametrize("value", ["", "1"])
def test_a_world_of_one_needs_no_other_variable(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    monkeypatch.setenv("LOCAL_RANK", "7")
    distributed.join()
    assert distributed.world() == 1
