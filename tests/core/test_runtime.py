"""The same step compiled, on the meta device, at paper size."""

import pytest
import tiny
import torch

from jepa_lab import train
from jepa_lab.checkpoints import TrainState
from jepa_lab.encoders import Encoder
from jepa_lab.masks import Masks
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.predictors import Predictor


def test_compiled_equals_eager_without_graph_breaks(run_program):
    """In a process of its own, since the run-time shape checks of this suite would break the graph."""
    program = """if True:
        import torch, tiny
        from dataclasses import replace
        from jepa_lab import train
        from jepa_lab.objectives import jepa_objective
        torch._dynamo.config.error_on_recompile = True
        model = tiny.model(depth=1)
        graph = torch.compile(jepa_objective, backend="aot_eager", fullgraph=True)
        for seed in range(3):
            batch = tiny.batch(4, seed)
            torch.testing.assert_close(graph(model, *batch), jepa_objective(model, *batch))

        def trained(compile, micro_batches=1, **changes):
            cfg = replace(tiny.CFG, num_steps=3, **changes)
            state = train.start(tiny.model(depth=1), cfg, 0)
            return tiny.weights(tiny.fit(cfg, state, compile=compile, micro_batches=micro_batches))

        compiler, calls = torch.compile, []
        def record(step, **how):
            calls.append(how["mode"])
            return compiler(step, backend="aot_eager", fullgraph=True)
        torch.compile = record
        torch.testing.assert_close(trained(True), trained(False))
        torch.testing.assert_close(trained(True, optimizer="muon"), trained(False, optimizer="muon"))
        torch.testing.assert_close(trained(True, 2), trained(False, 2))
        # a CUDA graph overwrites gradients that are to add up
        assert calls == ["reduce-overhead", "reduce-overhead", "default"]
        print("equal")
    """
    assert run_program(program).strip() == "equal"


class Unfused(torch.optim.AdamW):
    """The meta device has no fused optimiser, and no other one takes the flag of a bad batch."""

    def step(self):
        del self.found_inf
        super().step()


def stepped(model, patches, drawn):
    """Shapes of all that a step makes: loss, flag, gradients, the optimiser's moments."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = Unfused([{"params": trained, "decayed": True}])
    state = TrainState(model, [optimizer], torch.Generator(), 0, train.ema_pairs(model))
    loss = jepa_objective(model, patches, drawn)
    loss.backward()
    grads = [p.grad.shape for p in trained]
    ok = train.update(state, tiny.CFG, loss.detach())
    assert ok.device == loss.device
    moments = [{name: part.shape for name, part in optimizer.state[p].items()} for p in trained]
    return loss.shape, ok.shape, grads, moments


def test_a_step_on_the_meta_device_has_the_shapes_of_one_on_the_cpu():
    patches, drawn = tiny.batch()
    there = Masks(drawn.context_idx.to("meta"), drawn.target_idx.to("meta"), tiny.GRID)
    assert stepped(tiny.model().to("meta"), patches.to("meta"), there) == stepped(tiny.model(), patches, drawn)


def test_a_step_at_paper_size_has_the_right_shapes_and_no_stray_tensor():
    """ViT-H/14 with its predictor on the meta device: any tensor made on another device, or any read-back, raises."""
    with torch.device("meta"):
        model = JEPA(Encoder((16, 16), 588, 1280, 32, 16), Predictor((16, 16), 1280, 384, 12, 12, 1280))
        drawn = Masks(torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 42, dtype=torch.int64), (16, 16))
        patches = torch.zeros(2, 256, 588)
    pred = model.predictor(model.encoder(patches, drawn.context_idx), drawn)
    assert pred.shape == (2, 4, 42, 1280)
    loss, ok, grads, moments = stepped(model, patches, drawn)
    trained = [p.shape for p in model.parameters() if p.requires_grad]
    assert loss == ok == () and grads == trained == [part["exp_avg"] for part in moments]
    # ViT-H: 632 M with its [cls] parts
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(630e6, rel=0.01)
