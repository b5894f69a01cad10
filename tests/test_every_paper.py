"""The promises that every paper keeps, for every arm at preset smoke (design: see README, "What is promised").

The data of a paper are in tests/papers/<slug>/case.py; goldens have a file of their own (test_golden.py).
"""

import math
import re
import subprocess
import sys
from functools import cache

import pytest
import torch
from every_paper import PAPERS, TESTS, TRAINED, arms, case, different, started, tensors, trained

from jepa_lab import checkpoints, papers
from jepa_lab.claims import Claim

ROOT = TESTS.parent
HEADINGS = (
    "## The idea",
    "## Smallest code",
    "## What breaks it",
    "## Paper says, we measured, differs because",
    "## Exercises",
    "## Run it larger",
)
every_paper = pytest.mark.parametrize("slug", PAPERS)
every_trained_paper = pytest.mark.parametrize("slug", TRAINED)


def test_there_are_papers_and_most_of_them_train_with_fit():
    assert len(PAPERS) >= 5 and len(TRAINED) >= 4


@every_paper
def test_presets_exist_and_unknown_names_are_refused(slug):
    paper = papers.all()[slug]
    for name in ("smoke", "laptop", "gpu", "paper"):
        assert paper.preset(name) == paper.preset(name)
    with pytest.raises(ValueError, match="unknown preset 'huge'; there are: smoke, laptop"):
        paper.preset("huge")
    with pytest.raises(ValueError, match="unknown option num_stepz; the fields are: "):
        paper.preset("smoke", num_stepz=3)


@every_paper
def test_claims_are_well_formed(slug):
    paper = papers.all()[slug]
    assert re.fullmatch(rf"\d\d_{slug}", paper.CHAPTER)
    claims = paper.CLAIMS
    assert claims and all(isinstance(claim, Claim) for claim in claims)
    assert len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        assert claim.chapter == paper.CHAPTER, claim.id
        assert re.fullmatch(r"[a-z0-9-]+", claim.id)
        assert claim.statement[0].isupper() and claim.statement.endswith("."), claim.id
        assert claim.metric and claim.baseline and claim.paper, claim.id


@every_paper
def test_the_notebook_has_the_headings_of_the_contract(slug):
    text = (ROOT / "notebooks" / f"{papers.all()[slug].CHAPTER}.py").read_text(encoding="utf-8")
    found = re.findall(r"^# (## .+)$", text, re.MULTILINE)
    assert [heading for heading in found if heading in HEADINGS] == list(HEADINGS)
    assert "This chapter in one box" in text


@cache
def three_steps(slug):
    """Every arm before and after three steps: {name: (start, state)}."""
    found = {}
    for name in arms(slug)[1]:
        start, _ = started(slug, name)
        found[name] = tensors(start), trained(slug, name, 3)
    return found


@every_trained_paper
def test_every_arm_takes_steps_with_a_finite_loss(slug):
    for name, (_, state) in three_steps(slug).items():
        assert len(state.history["loss"]) == 3 and all(map(math.isfinite, state.history["loss"])), name
        assert state.bad_steps == 0, name


@every_trained_paper
def test_every_trainable_parameter_moves(slug):
    for name, (start, state) in three_steps(slug).items():
        trainable = [key for key, p in state.model.named_parameters() if p.requires_grad]
        after = tensors(state)
        still = [key for key in trainable if torch.equal(start[f"model {key}"], after[f"model {key}"])]
        assert trainable and still == [], name


@every_trained_paper
def test_target_modules_get_no_gradient_and_follow_their_source(slug):
    for name, (_, state) in three_steps(slug).items():
        for target, source in state.ema:
            targets, sources = list(target.parameters()), list(source.parameters())
            assert all(p.grad is None and not p.requires_grad for p in targets), name
            assert [p.shape for p in targets] == [p.shape for p in sources], name


@every_trained_paper
def test_weights_follow_from_the_seed_and_arms_share_the_encoders_start(slug):
    starts = {name: started(slug, name)[0].model for name in arms(slug)[1]}
    for name, model in starts.items():
        again, other = (started(slug, name, seed)[0].model.state_dict() for seed in (0, 1))
        assert different(model.state_dict(), again) == [], name
        assert different(model.state_dict(), other) != [], name
    encoders = [model.encoder.state_dict() for model in starts.values() if hasattr(model, "encoder")]
    alike = [encoder for encoder in encoders if shapes(encoder) == shapes(encoders[0])]
    assert all(different(encoder, alike[0]) == [] for encoder in alike)


def shapes(state_dict):
    return {name: tensor.shape for name, tensor in state_dict.items()}


@every_trained_paper
def test_fingerprints_of_all_arms_differ(slug, tmp_path):
    found = []
    for i, name in enumerate(arms(slug)[1]):
        trained(slug, name, 1, checkpoint=tmp_path / f"{i}.pt", save_every=1, measure=None)
        found.append(checkpoints.read(tmp_path / f"{i}.pt")["fingerprint"])
    assert [i for i, fingerprint in enumerate(found) if found.count(fingerprint) > 1] == []


def cut(state):
    raise KeyboardInterrupt


@every_trained_paper
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(slug, tmp_path):
    for i, name in enumerate(arms(slug)[1]):
        path = tmp_path / f"{i}.pt"
        whole = trained(slug, name, 4)
        with pytest.raises(KeyboardInterrupt):
            trained(slug, name, 4, checkpoint=path, save_every=2, at={3: cut})
        resumed = trained(slug, name, 4, checkpoint=path)
        assert different(tensors(whole), tensors(resumed)) == [], name
        assert whole.history["loss"] == resumed.history["loss"], name


@every_trained_paper
def test_a_bad_batch_leaves_weights_buffers_and_optimisers_untouched(slug):
    for name in arms(slug)[1]:
        seen = {}

        def keep(state, seen=seen):
            seen[state.step] = tensors(state)

        state = trained(slug, name, 4, poison_step=2, at={2: keep, 3: keep})
        assert different(seen[2], seen[3]) == [], name
        assert state.bad_steps == 1 and different(seen[3], tensors(state)) != [], name


@every_paper
def test_the_paper_preset_builds_on_the_meta_device_with_the_published_number_of_weights(slug):
    sizes = case(slug).paper_size()
    assert sizes or slug not in TRAINED
    for name, (module, published) in sizes.items():
        assert all(p.is_meta for p in module.parameters()), name
        assert sum(p.numel() for p in module.parameters()) == pytest.approx(published, rel=0.02), name


# Two processes and compilation, each in programs of their own: one run for all papers


TWO = """if True:
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from every_paper import CALM, TRAINED, arms, tensors, trained
    from jepa_lab import distributed
    distributed.join()
    ended = {{}}
    for slug in TRAINED:
        for name in arms(slug)[1]:
            state = trained(slug, name, 2, changes=CALM, measure=None)
            ended[slug, name] = state.model.state_dict(), state.history["loss"]
    torch.save(ended, f"{folder}/{{distributed.world()}}-{{distributed.rank()}}.pt")
    distributed.leave()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "program.py").write_text(TWO.format(tests=str(TESTS), folder=folder))
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        run([*launcher, str(folder / "program.py")])
    return [torch.load(folder / f"{key}.pt") for key in ("1-0", "2-0", "2-1")]


def run(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@every_trained_paper
def test_two_processes_equal_one(two_processes, slug):
    alone, first, second = two_processes
    for name in arms(slug)[1]:
        key = slug, name
        assert different(first[key][0], second[key][0]) == [], name
        torch.testing.assert_close(first[key][0], alone[key][0], rtol=0, atol=5e-5, msg=name)
        assert first[key][1] == pytest.approx(alone[key][1], rel=1e-3), name


COMPILED = """if True:
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from every_paper import CALM, by_code, trained
    compiler = torch.compile
    torch.compile = lambda step, **how: compiler(step, backend="eager", fullgraph=True, dynamic=False)
    slug = sys.argv[1]
    for name in by_code(slug):
        plain, compiled = (
            trained(slug, name, 2, changes=CALM, measure=None, compile=compile) for compile in (False, True)
        )
        torch.testing.assert_close(compiled.history["loss"], plain.history["loss"], rtol=1e-4, atol=1e-6, msg=name)
        weights = [list(state.model.parameters()) for state in (compiled, plain)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-4, msg=name)
    print("equal")
"""


@every_trained_paper
def test_every_arm_compiled_equals_eager_without_a_graph_break(slug):
    """Every objective and model, in a process of its own: this suite's shape checks would break the graph."""
    assert run(["-c", COMPILED.format(tests=str(TESTS)), slug]).strip().endswith("equal")
