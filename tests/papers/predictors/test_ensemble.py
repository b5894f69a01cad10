"""A member of an ensemble is a separate run: same losses, weights, histories and settings, whatever the others do.

Batched products round differently, so equality is to a tolerance: 1e-5 relative for losses; for weights 1e-4, a
twentieth of one step, since AdamW enlarges the rounding of a gradient near zero (nearly all agree to 1e-7). Left out
are the biases of attention's keys: the softmax cancels them, so their gradient is nothing but rounding.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from jepa_lab import experiment, masks, train
from jepa_lab.encoders import Encoder
from jepa_lab.objectives import JEPA
from jepa_lab.papers.predictors import ensemble
from jepa_lab.predictors import Predictor
from jepa_lab.tasks import TokenTask

GRID, PATCH_DIM, WIDTH = (4, 4), 9, 16
CFG = train.Config(num_steps=12, batch_size=8, log_every=4)
SAMPLER = partial(masks.multi_block, GRID, num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)
DATA = torch.randint(0, 256, (40, 16, PATCH_DIM), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def tiny(seed=0, width=WIDTH):
    torch.manual_seed(seed)
    return JEPA(Encoder(GRID, PATCH_DIM, width, 2, 2), Predictor(GRID, width, 8, 1, 2, width))


def to_batch(patches):
    return (patches.float() - 128) / 64


def task_of(patches=DATA, sampler=SAMPLER):
    return TokenTask(patches, to_batch, sampler)


def together(seeds, cfgs=CFG, starts=None, patches=DATA, **how):
    stacked = ensemble.stack([tiny(s) for s in (starts or seeds)], seeds)
    return ensemble.train_members(stacked, cfgs, task_of(patches), progress=False, **how)


def apart(seed, cfg=CFG, start=None, patches=DATA, **how):
    state = train.start(tiny(seed if start is None else start), cfg, seed, "cpu")
    return train.fit(state, cfg, task_of(patches), progress=False, **how)


def weights(state):
    parts = []
    for name, p in state.model.named_parameters():
        query_key_value = p.detach().chunk(3) if name.endswith("qkv.bias") else None
        parts += [query_key_value[0], query_key_value[2]] if query_key_value else [p.detach().flatten()]
    return torch.cat(parts)


def assert_same(member, state):
    assert member.history.keys() == state.history.keys() and member.bad_steps == state.bad_steps
    for name, values in state.history.items():
        assert member.history[name] == pytest.approx(values, rel=1e-5 if name == "loss" else 1e-3, nan_ok=True), name
    torch.testing.assert_close(weights(member), weights(state), rtol=0, atol=1e-4)


def test_a_member_equals_its_separate_run():
    panel = experiment.collapse_panel(DATA[:30], to_batch, SAMPLER)
    members = together((0, 1, 5), measure=panel).members
    for member, seed in zip(members, (0, 1, 5)):
        assert_same(member, apart(seed, measure=panel))
    assert (weights(members[0]) - weights(members[1])).abs().max() > 0.1


def test_members_of_one_seed_share_their_batches_and_still_equal_separate_runs():
    calls = []

    def counted(batch_size, generator):
        calls.append(batch_size)
        return SAMPLER(batch_size, generator)

    stacked = ensemble.stack([tiny(3), tiny(4)], (9, 9))
    ensemble.train_members(stacked, CFG, task_of(sampler=counted), progress=False)
    assert len(calls) == CFG.num_steps
    for member, start in zip(stacked.members, (3, 4)):
        assert_same(member, apart(9, start=start))


def test_each_member_keeps_its_own_settings():
    cfgs = [
        CFG,
        replace(CFG, lr=1e-2, warmup=0.5, ema_decay=(0.5, 0.9)),
        replace(CFG, ema_decay=(0.0, 0.0), weight_decay=(1.0, 2.0), clip_norm=1e-3),
    ]
    members = together((2, 2, 6), cfgs).members
    for member, cfg, seed in zip(members, cfgs, (2, 2, 6)):
        assert_same(member, apart(seed, cfg))
    copied = members[2].model  # no memory at decay 0
    assert torch.equal(copied.encoder.tokens.embed.weight, copied.target_encoder.tokens.embed.weight)


def test_the_predictor_can_have_a_rate_of_its_own(monkeypatch):
    """The move of AdamW is linear in its rate: the reference keeps a share of every move of the predictor."""
    members, update = together((0, 0), predictor_lr=(0.1, 3.0)).members, train.update

    def scaled(state, cfg, loss, factor):
        before = copy.deepcopy(state.model.predictor.state_dict())
        ok = update(state, cfg, loss)
        for name, p in state.model.predictor.named_parameters():
            p.data = before[name] + factor * (p.data - before[name])
        return ok

    for member, factor in zip(members, (0.1, 3.0)):
        monkeypatch.setattr(train, "update", partial(scaled, factor=factor))
        assert_same(member, apart(0))


def test_a_bad_batch_of_one_member_is_skipped_by_it_alone():
    damaged = DATA.float()
    damaged[3] = torch.nan  # every seed meets it at another step
    cfg = replace(CFG, num_steps=14, log_every=1)
    members = together((0, 1, 5), cfg, patches=damaged).members
    for member, seed in zip(members, (0, 1, 5)):
        assert_same(member, apart(seed, cfg, patches=damaged))
    bad = [tuple(torch.tensor(m.history["loss"]).isnan().nonzero().flatten().tolist()) for m in members]
    assert len(set(bad)) == 3 and min(map(len, bad)) > 0


def test_a_member_that_is_lost_stands_still_and_the_others_go_on():
    models = [tiny(0), tiny(1)]
    models[0].predictor.out.bias.data[0] = torch.inf
    before = copy.deepcopy(models[0].state_dict())
    stacked = ensemble.stack(models, (0, 1))
    lost, healthy = ensemble.train_members(stacked, replace(CFG, max_bad_steps=3), task_of(), progress=False).members
    assert all(torch.equal(p, before[name]) for name, p in models[0].state_dict().items())
    assert lost.bad_steps == CFG.num_steps and torch.tensor(lost.history["loss"]).isnan().all()
    assert_same(healthy, apart(1))


def test_when_every_member_is_lost_the_run_stops():
    with pytest.raises(RuntimeError, match="every member .* up to step 8"):
        together((0, 1), replace(CFG, max_bad_steps=5), patches=DATA.float() * torch.nan)


def test_one_member_alone_works_and_goes_on_where_it_stopped():
    model = tiny(4)
    stacked = ensemble.stack([model], [4])
    state = train.start(tiny(4), CFG, 4, "cpu")
    for steps in (3, 7):
        ensemble.train_members(stacked, replace(CFG, num_steps=steps), task_of(), progress=False)
        train.fit(state, replace(CFG, num_steps=steps), task_of(), progress=False)
    assert stacked.members[0].model is model and stacked.step == 7
    assert_same(stacked.members[0], state)


def test_bf16_members_stay_near_separate_bf16_runs():
    cfg = replace(CFG, precision="bf16")
    for member, seed in zip(together((0, 1), cfg).members, (0, 1)):
        assert member.history["loss"] == pytest.approx(apart(seed, cfg).history["loss"], rel=5e-3)


def sizes_by_seed(batch_size, generator):
    return partial(masks.random_tokens, GRID, num_targets=1, target_size=2)(
        batch_size, generator, num_context=4 + generator.initial_seed()
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ensemble.stack([], []), "at least one model"),
        (lambda: ensemble.stack([tiny(), tiny()], [0]), "2 models and 1 seeds"),
        (lambda: ensemble.stack([tiny()] * 2, [0, 1]), "one model stands for several members"),
        (lambda: ensemble.stack([], [1]), "0 models and 1 seeds"),
        (lambda: ensemble.stack([tiny(), tiny(), tiny(width=32)], [0, 1, 2]), r"those at \[2\] differ"),
        (lambda: together((0, 1), patches=DATA.to("meta")), "on one device, but the members on cpu, the data on meta"),
        (lambda: together((0, 1), [CFG]), "cfgs has 1 entries for 2 members"),
        (lambda: together((0, 1), predictor_lr=(1.0, 1.0, 1.0)), "predictor_lr has 3 entries for 2 members"),
        (lambda: together((0, 1), [CFG, replace(CFG, batch_size=4, num_steps=9)]), "share num_steps, batch_size"),
        (lambda: together((0, 1), replace(CFG, batch_size=64)), "cannot fill one batch"),
        (
            lambda: ensemble.train_members(
                ensemble.stack([tiny(), tiny()], (0, 1)), CFG, task_of(sampler=sizes_by_seed)
            ),
            "another size for every seed",
        ),
        (lambda: together((0, 1), replace(CFG, optimizer="muon")), "trains with optimizer adamw only"),
    ],
)
def test_bad_input_gets_one_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()
