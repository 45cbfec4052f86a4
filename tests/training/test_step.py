"""The step that a GPU replays: nothing in it may wait for the device, and what it sums and updates is what plain torch gives."""

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dbq import networks
from dbq.benchmark import subjects
from dbq.training import optimiser
from dbq.training.loop import determinism
from dbq.training.step import Step

METHODS = [name for name, one in subjects.SUBJECTS.items() if one.method and not one.library and not name.endswith("-compiled")]
# what copies a value or a size to the host, so that a CUDA graph can't hold it
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_linalg_check_errors")


class Waits(TorchDispatchMode):
    """Notes every operation that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITING or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def trainee(name, batch_size=4):
    return subjects.trainee(name, subjects.row("resnet20", name, 8), *subjects.random_batch(batch_size, "cpu"))


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_a_gpu(name):
    step = trainee(name)
    step()  # tables that are made once
    with Waits() as waits:
        step()
    assert waits.seen == []


def test_the_mode_notices_what_waits():
    with Waits() as waits:
        x = torch.arange(4.0)
        float(x[1]), x[x > 1], x.nonzero()
    assert waits.seen == ["_local_scalar_dense", "index", "nonzero"]


def test_the_sums_are_those_of_the_steps():
    network = networks.build("resnet20", 10, "32x32").train()
    recipe = tiny.row().training
    losses, hits = [], 0

    def loss_of(images, labels):
        nonlocal hits
        logits = network(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        losses.append(float(loss.detach()))
        hits += int((logits.argmax(1) == labels).sum())
        return loss, logits

    step = Step(network, optimiser.build(network, recipe), loss_of)
    step.reset_sums()
    for size in (8, 5):
        returned = step(torch.randn(size, 3, 32, 32), torch.randint(0, 10, (size,)))
        assert float(returned) == losses[-1]
    assert float(step.loss_sum) == pytest.approx(8 * losses[0] + 5 * losses[1], rel=1e-6)
    assert int(step.correct) == hits


def trained(name, graph):
    """Weights and losses of six steps with deterministic kernels."""
    images, labels = subjects.random_batch(32, "cuda")
    row = subjects.row("resnet20", name, 8)
    step = subjects.trainee(name, row, images.cpu(), labels.cpu())
    network = step.network.to("cuda", memory_format=torch.channels_last)
    losses = []

    def loss_of(images, labels):
        logits = network(images)
        return torch.nn.functional.cross_entropy(logits, labels), logits

    step = Step(network, optimiser.build(network, row.training), loss_of, graph=graph)
    for index in range(6):
        optimiser.set_learning_rate(step.optimiser, 0.02 / (index + 1))
        for quantizer in step.quantizers:
            quantizer.advance(index / 5, 0)
        losses.append(float(step(images.roll(index, 0), labels.roll(index, 0))))
    assert (step.graph is not None) is graph
    return losses, network.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METHODS)
def test_a_graph_trains_bit_for_bit_as_single_calls_do(name, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with determinism(True):
        (one, first), (other, second), (replayed, third) = (trained(name, graph) for graph in (False, False, True))
    for tensor in first:
        assert torch.equal(first[tensor], second[tensor]), (
            f"{tensor}: single calls don't repeat themselves, so the comparison proves nothing"
        )
        assert torch.equal(first[tensor], third[tensor]), tensor
    assert one == other == replayed
