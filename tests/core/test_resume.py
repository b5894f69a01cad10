"""A run that is killed at any moment goes on from its last checkpoint and ends as if nothing had happened."""

import errno
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from jepa_lab import checkpoints, masks, train
from jepa_lab import image_world as worlds
from jepa_lab.encoders import Encoder
from jepa_lab.predictors import Predictor

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
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(tmp_path), mode], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= least, "the test must have killed something"
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 2 and all(path.suffix == ".pt" for path in files), "nothing half-written stays"
    for path in files:
        same(checkpoints.read(tmp_path / "whole.pt"), checkpoints.read(path))


CFG = train.Config(num_steps=4, batch_size=8, log_every=4)
DATA = torch.randint(0, 256, (40, 16, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
SAMPLER = partial(masks.multi_block, (4, 4), num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)


def fit(
    path, cfg=CFG, seed=0, width=16, patches=DATA, sampler=SAMPLER, objective=train.jepa_objective, micro_batches=1
):
    """A tiny run that goes on from `path`, where there is something."""
    torch.manual_seed(0)
    run = train.start(
        train.JEPA(Encoder((4, 4), 9, width, 1, 2), Predictor((4, 4), width, 8, 1, 2, width)), seed, "cpu"
    )
    how = dict(checkpoint=path, save_every=2, progress=False, micro_batches=micro_batches)
    return train.fit(run, cfg, patches, lambda p: (p.float() - 128) / 64, sampler, objective, **how)


def other_objective(model, patches_BNP, masks):
    return train.jepa_objective(model, patches_BNP, masks)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cfg": replace(CFG, lr=1.0, num_steps=9)}, "lr, num_steps"),
        ({"seed": 1}, "seed"),
        ({"width": 32}, "model"),
        ({"objective": other_objective}, "objective"),
        ({"objective": partial(other_objective)}, "objective"),
        ({"sampler": partial(SAMPLER, num_context=5)}, "sampler"),
        ({"patches": DATA.flip(0)}, "samples"),
        ({"micro_batches": 2}, "micro_batches"),
        ({"cfg": worlds.Config(**asdict(CFG))}, "context_scale, depth, heads, .*"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, changed, named):
    path = tmp_path / "checkpoint.pt"
    done = fit(path)
    assert fit(path).step == done.step == 4  # the same run is taken as it is
    with pytest.raises(
        ValueError, match=rf"checkpoint.pt was written with other settings \({named}\); use another folder"
    ):
        fit(path, **changed)


def test_settings_that_a_checkpoint_has_and_the_run_has_not_are_seen_too(tmp_path):
    fit(tmp_path / "a.pt", worlds.Config(**asdict(CFG)))
    with pytest.raises(ValueError, match="context_scale, depth"):
        fit(tmp_path / "a.pt")


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("step 4"),
    "foreign": lambda path: torch.save({"weights": torch.zeros(2)}, path),
    "a bare list": lambda path: torch.save([1, 2], path),
    "format alone": lambda path: torch.save({"format": checkpoints.FORMAT}, path),
    "an older format": lambda path: torch.save(checkpoints.read(path) | {"format": "jepa_lab/2"}, path),
    "pickle": lambda path: torch.save({"format": print, "work": {}, "state": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_checkpoints_are_refused_without_advice_to_trust_them(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    fit(path)
    DAMAGE[damage](path)
    with pytest.raises(
        ValueError, match="damaged or not a checkpoint of this engine .*; delete it to start afresh"
    ) as refused:
        fit(path)
    assert "weights_only" not in str(refused.value)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path, refused = tmp_path / "checkpoint.pt", 0
    run = train.start(torch.nn.Linear(40, 20), 0, "cpu")
    checkpoints.save(path, run, {})
    whole, wanted = path.read_bytes(), checkpoints.read(path)
    places = range(0, len(whole), 23)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            same(checkpoints.read(path), wanted)
        except ValueError:
            refused += 1
    assert refused > 0.7 * len(places)  # the rest is padding and dates of the archive


@pytest.mark.parametrize("folder", ["file", "/proc/nowhere"])  # no folder, and a file system that takes no files
def test_a_checkpoint_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path, folder):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write checkpoints to .*; choose a folder that can be written"):
        fit(tmp_path / folder / "checkpoint.pt", sampler=lambda *_: pytest.fail("a step was taken"))


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
]


@pytest.mark.parametrize("error", [*FULL, OSError(errno.EROFS, "Read-only file system")])
def test_a_full_or_read_only_disk_says_what_to_do_and_keeps_the_old_checkpoint(tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    fit(path)
    before = path.read_bytes()

    def full(state, stream):
        stream.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError,
        match="could not write .*; the checkpoint before it is intact: make room or make it writable, then resume",
    ):
        checkpoints.save(path, fit(None), {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
