"""bfloat16 on a CPU: which layers compute in it, and how far they are from float64."""

import copy

import torch

from dbq import networks
from dbq.training import precision


def test_on_a_cpu_depthwise_convolutions_stay_in_float32_and_the_others_do_not():
    torch.manual_seed(0)
    network = networks.build("mobilenet_v1", 10, "32x32")  # batch statistics: without them the signal of an untrained network dies out
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
    context = precision.autocast(network, "bf16", log=lambda line: None)
    kinds = {True: set(), False: set()}
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, _, y: kinds[module.groups > 1].add(y.dtype))
    with context:
        logits = network(images)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    assert 0 < float((logits.detach().double() - exact).norm() / exact.norm()) < 0.4  # 27 layers of 8 bits of mantissa
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    twin = copy.deepcopy(network)  # computes with its own weights
    torch.nn.init.zeros_(next(p for name, p in twin.named_parameters() if p.ndim == 4 and p.shape[1] == 1))
    with context:
        assert not torch.equal(twin(images), logits)
    assert not torch.equal(network(images), logits) and logits.dtype == torch.bfloat16
    assert torch.allclose(network(images).double(), exact, atol=1e-4)  # without the context: float32


def test_float32_is_left_as_it_is():
    network = networks.build("mobilenet_v1", 10, "32x32").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        with precision.autocast(network, "fp32"):
            assert torch.equal(network(images), before)
