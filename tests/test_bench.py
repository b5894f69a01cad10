"""The benchmark measures equal work, counts it rightly and says what it left out. A tiny model, one round."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not in the installed package

from benchmarks import contender, gpu, ours, peers, step, step_text  # noqa: E402
from jepa_lab import __main__ as command_line  # noqa: E402
from jepa_lab import papers, runtime  # noqa: E402
from jepa_lab.encoders import transformer  # noqa: E402
from jepa_lab.masks import Masks  # noqa: E402
from jepa_lab.objectives import jepa_objective  # noqa: E402

Child = step.Child  # the real one: the report below is made without processes
TINY = ours.Work(width=32, depth=1, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2, batch_size=4)


class InThisProcess:
    """A contender without a process of its own: the same answers, without seconds of imports."""

    def __init__(self, name, precision, path, settings):
        self.name, self.precision = name, precision
        self.answer = self.step = contender.answers(
            name, precision, TINY, path, settings["threads"], settings["warmup"]
        ).__next__

    def end(self):
        pass


@pytest.fixture(scope="module")
def report():
    """Ceilings, ours, and a peer that cannot be there."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IJEPA_REPO", raising=False)
        patch.setattr(step, "Child", InThisProcess)
        patch.setattr(contender, "MEASURED_FLOP", 1e6)
        found = step.report(TINY, rounds=1, threads=1, warmup=2, only=["ceiling", "ours", "official"])
    torch.set_num_threads(threads)
    return found


def test_the_report_has_the_promised_fields(report):
    assert {
        "rows",
        "ratio_vs_best_peer_as_shipped",
        "ratio_vs_best_peer_bf16",
        "device",
        "threads",
        "load",
    } <= json.loads(json.dumps(report)).keys()
    assert [(row["contender"], row["precision"]) for row in report["rows"]].count(("ours", "bf16")) == 1
    for row in report["rows"]:
        assert row["samples_per_cpu_s"] > 0 and row["share_of_ceiling"] > 0 and row["peak_rss_mb"] > 50


def test_a_peer_that_is_missing_is_skipped_with_its_reason(report):
    assert "IJEPA_REPO is not set" in report["skipped"]["official"]
    assert report["ratio_vs_best_peer_as_shipped"] is None and "no such peer" in step_text.text(report)
    assert "official was not run" in step_text.text(report)


def test_both_precisions_train_the_same_model_on_the_same_batches(report):
    by_precision = {row["precision"]: row["losses"] for row in report["rows"]}
    assert len(set(by_precision["float32"])) == 2
    assert by_precision["bf16"] == pytest.approx(by_precision["float32"], rel=0.02)


@pytest.mark.parametrize("work", [TINY, step.SIZES["96"]], ids=["tiny", "96"])
def test_counted_operations_are_those_that_torch_counts(work):
    from torch.utils.flop_counter import FlopCounterMode

    work = replace(work, batch_size=2)
    given = next(ours.batches(ours.inputs(work, num_batches=1)))
    model = ours.our_model(work)
    runtime.choose_attention(model, plain=True)
    with FlopCounterMode(display=False) as counter:
        jepa_objective(model, given.patches, Masks(given.context_idx, given.target_idx, work.grid)).backward()
    assert counter.get_total_flops() == 2 * sum(step.flops_per_sample(work).values())


def counted(peer: peers.Peer, work: ours.Work) -> int:
    """What torch counts in a peer's forward and backward passes."""
    from torch.utils.flop_counter import FlopCounterMode

    given = next(ours.batches(ours.inputs(work, num_batches=1)))
    for module in (peer.encoder, peer.predictor):
        runtime.choose_attention(module, plain=True)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            peer.encode(peer.encoder, given.images, None)
        context = peer.encode(peer.encoder, given.images, given.context_idx)
        peer.predict(peer.predictor, context, given.context_idx, list(given.target_idx.unbind(1))).sum().backward()
    return counter.get_total_flops()


class OfficialEncoder(nn.Module):
    """An encoder with the official code's calls and names of weights, on our own modules' arithmetic."""

    def __init__(self, work: ours.Work):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, work.width, work.patch, work.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, 64, work.width), requires_grad=False)
        self.blocks = transformer(work.width, work.depth, work.heads)
        self.norm = nn.LayerNorm(work.width, eps=ours.EPS)

    def forward(self, images, idx=None):
        tokens = self.patch_embed.proj(images).flatten(2).mT + self.pos_embed
        return self.norm(self.blocks(tokens if idx is None else gather(tokens, [idx])))


class OfficialPredictor(nn.Module):
    """A predictor with the official code's calls and names of weights, on our own modules' arithmetic."""

    def __init__(self, work: ours.Work):
        super().__init__()
        narrow = work.predictor_width
        self.predictor_embed, self.predictor_proj = nn.Linear(work.width, narrow), nn.Linear(narrow, work.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.predictor_pos_embed = nn.Parameter(torch.zeros(1, 64, narrow), requires_grad=False)
        self.predictor_blocks = transformer(narrow, work.predictor_depth, work.predictor_heads)
        self.predictor_norm = nn.LayerNorm(narrow, eps=ours.EPS)

    def forward(self, context, idx, targets):
        position = self.predictor_pos_embed.expand(len(context), -1, -1)
        context = (self.predictor_embed(context) + gather(position, [idx])).repeat(len(targets), 1, 1)
        tokens = torch.cat([context, self.mask_token + gather(position, targets)], dim=1)
        return self.predictor_proj(self.predictor_norm(self.predictor_blocks(tokens))[:, idx.shape[1] :])


def gather(tokens, indices):
    return torch.cat([tokens.take_along_dim(idx[..., None], dim=1) for idx in indices])


def peer_in_torch(work: ours.Work) -> peers.Peer:
    """A stand-in for a peer."""
    return peers.Peer(
        OfficialEncoder(work),
        OfficialPredictor(work),
        encode=lambda module, images, idx: module(images, idx),
        predict=lambda module, *given: module(*given),
        gather=gather,
        ema=peers._ema_loop,
    )


def test_a_peer_with_our_weights_has_our_losses_over_several_updates():
    given = ours.inputs(TINY)
    our_step = ours.ours(TINY, given["weights"], "float32")
    theirs = peers.theirs(peer_in_torch(TINY), TINY, given["weights"], "float32")
    batches = [batch for _, batch in zip(range(5), ours.batches(given))]
    first, second = [float(our_step(batch)) for batch in batches], [float(theirs(batch)) for batch in batches]
    assert second == pytest.approx(first, rel=1e-5) and first[-1] < 0.9 * first[0]


def test_a_peer_of_another_shape_is_refused():
    given = ours.inputs(TINY, num_batches=1)
    with pytest.raises(ValueError, match="weights differ from the reference"):
        peers.theirs(peer_in_torch(replace(TINY, depth=2)), TINY, given["weights"], "float32")


def test_a_peers_operations_are_counted_in_full():
    count = lambda ours: TINY.batch_size * sum(step.flops_per_sample(TINY, ours).values())  # noqa: E731
    assert counted(peer_in_torch(TINY), TINY) == count(ours=False) > count(ours=True)


@pytest.mark.parametrize("name", peers.PEERS)
def test_an_installed_peer_does_the_same_work(name):
    given = ours.inputs(TINY)
    try:
        built = peers.PEERS[name](TINY)
    except ImportError as reason:
        pytest.skip(f"{name}: {reason}")
    batches = [batch for _, batch in zip(range(3), ours.batches(given))]
    losses = [
        [float(train_on(batch)) for batch in batches]
        for train_on in (
            ours.ours(TINY, given["weights"], "float32"),
            peers.theirs(built, TINY, given["weights"], "float32"),
        )
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def answers(name: str, precision: str, *cpu_s: float) -> dict:
    return {
        (name, precision): [{"cpu_s": s, "wall_s": 2 * s, "peak_rss_mb": 100.0, "rss_before_mb": 60.0} for s in cpu_s]
    }


def test_ratios_compare_the_best_steps_and_name_the_best_peer():
    steps = (
        answers("ours", "float32", 2.0, 3.0)
        | answers("ours", "bf16", 1.0, 1.5)
        | answers("a", "float32", 4.0, 3.0)
        | answers("b", "float32", 2.5, 9.0)
        | answers("b", "bf16", 1.2, 2.0)
    )
    measured = {"steps": steps, "losses": {pair: [1.0] for pair in steps}}
    rows = step.table(measured, TINY)
    assert (rows[0]["contender"], rows[0]["precision"]) == ("ours", "bf16")
    assert (
        rows[0]["samples_per_cpu_s"] == TINY.batch_size / 1.0 and rows[0]["samples_per_wall_s"] == TINY.batch_size / 2.0
    )
    shipped, autocast = step.lead(measured, rows, ("float32",)), step.lead(measured, rows, ("bf16",))
    assert shipped == {"peer": "b", "best": pytest.approx(2.5), "median": pytest.approx(3.0)}
    assert autocast == {"peer": "b", "best": pytest.approx(1.2), "median": pytest.approx((1.2 + 2.0 / 1.5) / 2)}


def test_bench_outside_a_checkout_says_what_it_needs(tmp_path, monkeypatch, capsys):
    (tmp_path / "_toc.yml").touch()
    monkeypatch.setenv("JEPA_LAB_ROOT", str(tmp_path))
    assert command_line.main(["bench"]) == 1
    assert "bench needs a checkout" in capsys.readouterr().err


def test_a_process_prints_its_answers_and_a_dead_one_is_named_with_its_last_words(tmp_path):
    settings = {"work": step.asdict(TINY), "threads": 1, "warmup": 1}
    child = Child("inputs", "float32", tmp_path / "inputs.pt", settings)
    try:
        assert child.answer().keys() == {"import_s", "preparation_s"} and (tmp_path / "inputs.pt").is_file()
        with pytest.raises(RuntimeError, match="StopIteration"):
            child.step()  # it has nothing more to tell
    finally:
        child.end()


def test_every_paper_that_trains_has_a_case_for_the_gpu_and_data_for_it():
    cases = gpu.cases()
    assert {case.rpartition("-")[0] for case in cases} == {
        slug for slug, paper in papers.all().items() if hasattr(paper, "arms")
    }
    assert {case.rpartition("-")[0] for case in cases} == set(gpu.DATA)
    cfg, arm = gpu.arm_of("masking-gpu, random tokens", "cpu")
    assert arm.name == "random tokens" and len(arm.task) >= cfg.batch_size == 512
    with pytest.raises(ValueError, match="unknown case 'masking-huge'; there are: .*masking-gpu"):
        gpu.arm_of("masking-huge", "cpu")
