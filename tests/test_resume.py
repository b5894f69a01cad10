"""A run that is killed at any moment goes on from its last checkpoint and ends as if nothing had happened."""

import subprocess
import sys

import pytest
import torch

from jepa_lab import checkpoints

# A nursery process imports torch once and forks one child per attempt. A child counts calls with a profiler hook and
# kills itself, without any clean-up, at the chosen one: inside a step, a log, or the middle of a checkpoint write.
NURSERY = """if True:
    import os, random, signal, sys
    from functools import partial
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from jepa_lab import masks, train
    from jepa_lab.encoders import Encoder
    from jepa_lab.predictors import Predictor

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    cfg = train.Config(num_steps=13, batch_size=8, log_every=4)
    sampler = partial(masks.multi_block, (4, 4), num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)
    patches = torch.randint(0, 256, (40, 16, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))

    def build():
        torch.manual_seed(0)
        model = train.JEPA(Encoder((4, 4), 9, 16, 2, 2), Predictor((4, 4), 16, 8, 1, 2, 16))
        model.encoder.blocks[0].mlp.drop1 = torch.nn.Dropout(0.1)  # torch's own generator counts too
        return train.start(model, 0, "cpu")

    def fit(path, hook=None):
        run = build()
        if path.exists():
            train.load(path, run, cfg)
        sys.setprofile(hook)
        train.fit(run, cfg, patches, lambda p: (p.float() - 128) / 64, sampler, watch=patches[:20], checkpoint=path, save_every=3, progress=False)
        sys.setprofile(None)

    def attempt(path, dies):
        child = os.fork()
        if child == 0:
            fit(path, dies)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def at_call(number):
        left = [number]
        def hook(frame, event, arg):
            left[0] -= 1
            if left[0] == 0:
                die()
        return hook

    def at_function(name, event, time):
        left = [time]
        def hook(frame, what, arg):
            if what == event and getattr(arg, "__name__", None) == name:
                left[0] -= 1
                if left[0] == 0:
                    die()
        return hook

    whole = [0]
    def count(frame, event, arg):
        whole[0] += 1
    fit(folder / "whole.pt", count)
    draw, kills = random.Random(0), 0
    for round in range(5 if mode == "anywhere" else 1):
        if mode == "anywhere":
            deaths = (at_call(draw.randrange(1, whole[0])) for _ in range(200))
        else:  # around the flush and the rename of the first and the second checkpoint that an attempt writes
            points = [(name, event, time) for name in ("fsync", "replace") for event in ("c_call", "c_return") for time in (1, 2)]
            deaths = iter([at_function(*point) for point in points] + [None] * 9)
        while attempt(folder / f"killed{round}.pt", next(deaths)) != 0:
            kills += 1
    print(kills)
"""


def same(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize(("mode", "least"), [("anywhere", 5), ("around a write", 6)])
def test_a_run_killed_at_any_moment_ends_bit_equal_to_the_uninterrupted_one(tmp_path, mode, least):
    """All of it: model, EMA, optimiser, generators, step, count of bad batches, history."""
    done = subprocess.run([sys.executable, "-c", NURSERY, str(tmp_path), mode], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= least, "the test must have killed something"
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 2 and all(path.suffix == ".pt" for path in files), "nothing half-written stays"
    for path in files:
        same(checkpoints.read(tmp_path / "whole.pt"), checkpoints.read(path))


def test_a_checkpoint_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        checkpoints.writable(tmp_path / "file" / "checkpoint.pt")


def test_a_full_disk_says_what_to_do_and_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoints.write(path, {"step": 1})

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="could not write .*make room, then resume"):
        checkpoints.write(path, {"step": 2})
    assert checkpoints.read(path)["step"] == 1 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
