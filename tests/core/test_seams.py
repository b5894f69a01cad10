"""The core carries the six coming papers: each in miniature runs through the unchanged `fit`, resumes bit for bit, and
is the same on two processes.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from seams import MINIATURES

from jepa_lab import train

CFG = train.Config(num_steps=6, batch_size=8, log_every=2, eps=1e-4, ema_memory=0.5)

PROGRAM = """if True:
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from test_seams import MINIATURES, trained
    from jepa_lab import distributed
    distributed.join()
    ended = {{name: trained(name).model.state_dict() for name in MINIATURES}}
    torch.save(ended, f"{folder}/{{distributed.world()}}-{{distributed.rank()}}.pt")
    distributed.leave()
"""


def trained(name, cfg=CFG, **how):
    task, objective, build = MINIATURES[name]
    torch.manual_seed(0)
    state = train.start(build(), cfg, seed=0)
    return train.fit(state, cfg, task, objective, name=name, progress=False, **how)


@pytest.mark.parametrize("name", MINIATURES)
def test_every_miniature_trains_all_its_weights_and_moves_its_targets(name):
    torch.manual_seed(0)
    before = {key: tensor.clone() for key, tensor in MINIATURES[name][2]().state_dict().items()}
    state = trained(name)
    after = state.model.state_dict()
    still = {key for key, p in state.model.named_parameters() if torch.equal(before[key], after[key])}
    assert still == set()
    assert torch.isfinite(torch.tensor(state.history["loss"])).all() and state.bad_steps == 0
    assert len(state.ema) == {"SAR-JEPA": 0, "DMT-JEPA": 2}.get(name, 1)
    for target, source in state.ema:
        assert all(p.grad is None and not p.requires_grad for p in target.parameters())
        assert not all(map(torch.equal, target.parameters(), source.parameters()))


@pytest.mark.parametrize(
    "name, parts", [("AD-L-JEPA", ["hidden full", "hidden empty", "variance"]), ("ACT-JEPA", ["actions", "latents"])]
)
def test_the_parts_of_a_loss_add_up_in_the_history(name, parts):
    history = trained(name).history
    assert [sum(values) for values in zip(*(history[part] for part in parts))] == pytest.approx(
        history["loss"], rel=1e-5
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_every_miniature_resumes_bit_for_bit(name, tmp_path):
    def cut(state):
        raise KeyboardInterrupt

    whole = trained(name)
    with pytest.raises(KeyboardInterrupt):
        trained(name, checkpoint=tmp_path / "cut.pt", save_every=3, at={4: cut})
    resumed = trained(name, checkpoint=tmp_path / "cut.pt")
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert whole.history["loss"][-1] == resumed.history["loss"][-1]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{"processes-rank": {miniature: weights and buffers at the end}}."""
    folder = tmp_path_factory.mktemp("seams")
    (folder / "program.py").write_text(PROGRAM.format(tests=str(Path(__file__).parent), folder=folder))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher in ([], torchrun):
        command = [sys.executable, *launcher, str(folder / "program.py")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: torch.load(path) for path in folder.glob("*.pt")}


@pytest.mark.parametrize("name", MINIATURES)
def test_two_processes_equal_one(ended, name):
    alone, first, second = (ended[key][name] for key in ("1-0", "2-0", "2-1"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(first, alone, rtol=0, atol=2e-5)
