"""A run that is killed at any moment goes on from its last checkpoint and ends as if nothing had happened."""

import errno
from dataclasses import asdict, replace
from functools import partial

import pytest
import tiny
import torch
from torch import nn

from jepa_lab import checkpoints, train
from jepa_lab import image_world as worlds
from jepa_lab.experiment import collapse_panel
from jepa_lab.objectives import jepa_objective
from jepa_lab.tasks import TokenTask

# A nursery process imports torch once and forks one child per attempt. A child counts calls with a profiler hook and
# kills itself, without any clean-up, at the chosen one: inside a step, a log, or the middle of a checkpoint write.
NURSERY = """if True:
    import os, random, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    import tiny
    from jepa_lab import train
    from jepa_lab.experiment import collapse_panel

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    cfg = train.Config(num_steps=13, batch_size=8, log_every=4, optimizer=sys.argv[3])
    measure = collapse_panel(tiny.patches(20), tiny.to_batch, tiny.SAMPLER)

    def fit(path, hook=None):
        model = tiny.model()
        model.predictor.out = torch.nn.Sequential(torch.nn.Dropout(0.1), model.predictor.out)
        state = train.start(model, cfg, 0)
        sys.setprofile(hook)
        tiny.fit(cfg, state, measure=measure, checkpoint=path, save_every=3)
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
            events = ("c_call", "c_return")
            points = [(name, event, time) for name in ("fsync", "replace") for event in events for time in (1, 2)]
            deaths = iter([at_function(*point) for point in points] + [None] * 9)
        while attempt(folder / f"killed{round}.pt", next(deaths)) != 0:
            kills += 1
    print(kills)
"""


def same(a, b, where="state"):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b)):
            same(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize(
    ("mode", "optimizer", "least"), [("anywhere", "muon", 5), ("anywhere", "adamw", 5), ("around a write", "muon", 6)]
)
def test_a_run_killed_at_any_moment_ends_bit_equal_to_the_uninterrupted_one(
    run_program, tmp_path, mode, optimizer, least
):
    """All of it: model, EMA, optimisers, generators, step, count of bad batches, history."""
    kills = run_program(NURSERY, str(tmp_path), mode, optimizer)
    assert int(kills) >= least, "the test must have killed something"
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 2 and all(path.suffix == ".pt" for path in files), "nothing half-written stays"
    for path in files:
        same(checkpoints.read(tmp_path / "whole.pt"), checkpoints.read(path))


def cut_at(step):
    """A hook that interrupts a run before this step."""

    def interrupt(state):
        raise KeyboardInterrupt

    return {step: interrupt}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_mid_epoch_equals_uninterrupted(tmp_path, optimizer):
    cfg, path = replace(tiny.CFG, optimizer=optimizer), tmp_path / "checkpoint.pt"
    measure = collapse_panel(tiny.patches(30), tiny.to_batch, tiny.SAMPLER)
    whole = tiny.fit(cfg, measure=measure, checkpoint=tmp_path / "whole.pt", save_every=7)
    with pytest.raises(KeyboardInterrupt):  # in the second epoch, past the checkpoint of step 7
        tiny.fit(cfg, measure=measure, checkpoint=path, save_every=7, at=cut_at(8))
    resumed = tiny.fit(cfg, train.start(tiny.model(seed=1), cfg, 0), measure=measure, checkpoint=path)
    assert torch.equal(tiny.weights(whole), tiny.weights(resumed))
    same(tiny.optimizer_tensors(whole), tiny.optimizer_tensors(resumed))
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())
    same(whole.history, resumed.history)
    assert whole.history["step"][-1] == 12


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_without_the_optimizer_state_would_differ(optimizer):
    """The control of the test above: exactness is not an accident of a run that forgets."""
    cfg = replace(tiny.CFG, optimizer=optimizer)
    whole, kept = tiny.fit(cfg), {}
    tiny.fit(cfg, at={7: lambda state: kept.update(copy_of(state))})
    state = train.start(tiny.model(), cfg, 0)
    state.model.load_state_dict(kept["model"])
    state.generator.set_state(kept["generator"])
    state.step = 7
    assert not torch.equal(tiny.weights(tiny.fit(cfg, state)), tiny.weights(whole))


def copy_of(state):
    model = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    return {"model": model, "generator": state.generator.get_state()}


CFG = train.Config(num_steps=4, batch_size=8, log_every=4)


def fit(path, cfg=CFG, seed=0, width=16, task=tiny.TASK, **how):
    """A tiny run that goes on from `path`, where there is something."""
    state = train.start(tiny.model(width=width, depth=1), cfg, seed)
    return tiny.fit(cfg, state, task, checkpoint=path, save_every=2, **how)


def other_objective(model, patches_BNP, masks):
    return jepa_objective(model, patches_BNP, masks)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cfg": replace(CFG, lr=1.0, num_steps=9)}, "lr, num_steps"),
        ({"cfg": replace(CFG, optimizer="muon")}, "optimizer"),
        ({"seed": 1}, "seed"),
        ({"width": 32}, "model"),
        ({"name": "another arm"}, "arm"),
        ({"objective": other_objective}, "objective"),
        ({"objective": partial(jepa_objective, standardised=True)}, "objective"),
        ({"task": replace(tiny.TASK, sampler=partial(tiny.SAMPLER, num_context=5))}, "task"),
        ({"task": replace(tiny.TASK, patches=tiny.TASK.patches.flip(0))}, "task"),
        ({"micro_batches": 2}, "micro_batches"),
        ({"cfg": worlds.Config(**asdict(CFG))}, "context_scale, depth, .*"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, changed, named):
    path = tmp_path / "checkpoint.pt"
    done = fit(path)
    assert fit(path).step == done.step == 4  # the same run is taken as it is
    says = rf"checkpoint.pt was written with other settings \({named}\); use another folder"
    with pytest.raises(ValueError, match=says):
        fit(path, **changed)


def test_settings_that_a_checkpoint_has_and_the_run_has_not_are_seen_too(tmp_path):
    fit(tmp_path / "a.pt", worlds.Config(**asdict(CFG)))
    with pytest.raises(ValueError, match="context_scale, depth"):
        fit(tmp_path / "a.pt")


def wrapped(sampler):
    """Two samplers in one closure: by name they are the same function."""
    return lambda batch_size, generator: sampler(batch_size, generator)


@pytest.mark.parametrize(
    "task", [replace(tiny.TASK, sampler=wrapped(tiny.SAMPLER)), TokenTask(tiny.patches(), lambda p: p, tiny.SAMPLER)]
)
def test_functions_that_cannot_be_told_apart_are_refused_where_a_checkpoint_is_written(tmp_path, task):
    with pytest.raises(ValueError, match="cannot be told apart from another function of that name"):
        fit(tmp_path / "a.pt", task=task)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("step 4"),
    "foreign": lambda path: torch.save({"weights": torch.zeros(2)}, path),
    "a bare list": lambda path: torch.save([1, 2], path),
    "format alone": lambda path: torch.save({"format": checkpoints.FORMAT}, path),
    "an older format": lambda path: torch.save(checkpoints.read(path) | {"format": "jepa_lab/2"}, path),
    "pickle": lambda path: torch.save({"format": print, "fingerprint": {}, "state": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_checkpoints_are_refused_without_advice_to_trust_them(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    fit(path)
    DAMAGE[damage](path)
    with pytest.raises(
        ValueError, match="damaged or not a checkpoint of this engine .*; delete it to start"
    ) as refused:
        fit(path)
    assert "weights_only" not in str(refused.value)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path, refused = tmp_path / "checkpoint.pt", 0
    checkpoints.save(path, train.start(nn.Linear(40, 20), CFG, 0), {})
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
        fit(tmp_path / folder / "checkpoint.pt", at={0: lambda state: pytest.fail("a step was taken")})


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
]


@pytest.mark.parametrize("error", [*FULL, OSError(errno.EROFS, "Read-only file system")])
def test_a_full_or_read_only_disk_says_what_to_do_and_keeps_the_old_checkpoint(tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    fit(path)
    before = path.read_bytes()

    def full(contents, stream):
        stream.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    says = "could not write .*; the checkpoint before it is intact: make room or make it writable, then resume"
    with pytest.raises(OSError, match=says):
        checkpoints.save(path, fit(None), {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
