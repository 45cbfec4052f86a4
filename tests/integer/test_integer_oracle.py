"""A tiny network computed by hand, in Python's integers and fractions, with constants derived anew from the trained parameters."""

import math
from fractions import Fraction

import pytest
import quantized_networks as make
import torch

from dbq.integer import execute
from dbq.integer.compile import Widths, compile_network

BITS = 12


def step_of(quantizer):
    return float(quantizer.clip.detach()) / quantizer.largest


def planes_and_scales(layer):
    """planes[j][c][k] in plain integers, scales[j][c] as floats."""
    quantizer, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original.detach()
    if quantizer.coding == "fixed_point":
        step = float(quantizer.step(weight))
        integers = quantizer.integers(weight).flatten(1).tolist()
        return [integers], [[step] * len(integers)]
    parts = quantizer.decompose(weight)
    scales = parts.scales.expand(weight.shape[0], -1).T.tolist()
    return parts.planes.tolist(), scales


def normalised(factors, bias, accumulator_bits):
    """Multipliers, integer bias and shift of one channel: the largest magnitude fills BITS bits, unless the bias would be wider than
    BITS + max(accumulator_bits, 8) bits."""
    largest = max(abs(factor) for factor in factors)
    shift = 0
    while round(Fraction(largest) * Fraction(2) ** (shift + 1)) < 2**BITS:
        shift += 1
    while round(Fraction(largest) * Fraction(2) ** shift) >= 2**BITS:
        shift -= 1
    while bias != 0 and abs(Fraction(bias)) * Fraction(2) ** shift >= 2 ** (BITS + max(accumulator_bits, 8)):
        shift -= 1
    return [round(Fraction(factor) * Fraction(2) ** shift) for factor in factors], round(Fraction(bias) * Fraction(2) ** shift), shift


def widest_accumulator(planes, low, high):
    ends = [0]
    for plane in planes:
        for row in plane:
            ends.append(sum(w * (high if w > 0 else low) for w in row))
            ends.append(sum(w * (low if w > 0 else high) for w in row))
    return max((end.bit_length() if end >= 0 else (-end - 1).bit_length()) + 1 for end in ends)


def layer_by_hand(layer, norm, x, low, high, step_in, step_out):
    """x[channel][row][column] of integers -> y[channel][row][column] as exact rounded integers before saturation."""
    planes, scales = planes_and_scales(layer)
    channels_in, size, kernel = len(x), len(x[0]), layer.kernel_size[0]
    stride, padding, depth = layer.stride[0], layer.padding[0], channels_in // layer.groups
    gain = [g / math.sqrt(v + norm.eps) for g, v in zip(norm.weight.tolist(), norm.running_var.tolist(), strict=True)]
    own = [0.0] * len(gain) if layer.bias is None else layer.bias.tolist()
    offset = [beta + g * (b - mean) for beta, g, b, mean in zip(norm.bias.tolist(), gain, own, norm.running_mean.tolist(), strict=True)]
    width = widest_accumulator(planes, low, high)
    result = []
    for c in range(len(gain)):
        factors = [scales[j][c] * gain[c] * step_in / step_out for j in range(len(planes))]
        multipliers, bias, shift = normalised(factors, offset[c] / step_out, width)
        first = c // (len(gain) // layer.groups) * depth
        rows = []
        for row in range(0, size + 2 * padding - kernel + 1, stride):
            line = []
            for column in range(0, size + 2 * padding - kernel + 1, stride):
                total = bias
                for j, multiplier in enumerate(multipliers):
                    accumulator = 0
                    for k in range(depth):
                        for dy in range(kernel):
                            for dx in range(kernel):
                                inside = 0 <= row + dy - padding < size and 0 <= column + dx - padding < size
                                value = x[first + k][row + dy - padding][column + dx - padding] if inside else 0
                                accumulator += planes[j][c][(k * kernel + dy) * kernel + dx] * value
                    total += multiplier * accumulator
                line.append(round(Fraction(total) / Fraction(2) ** shift))
            rows.append(line)
        result.append(rows)
    return result


def each(function, *maps):
    return [
        [[function(*values) for values in zip(*lines, strict=True)] for lines in zip(*rows, strict=True)]
        for rows in zip(*maps, strict=True)
    ]


def rescaled(value, factor, low, high):
    multipliers, _, shift = normalised([factor], 0, 8)
    return min(high, max(low, round(Fraction(value * multipliers[0]) / Fraction(2) ** shift)))


def logits_by_hand(network, image):
    """Integers and their lsb, for one image (3, 8, 8)."""
    n = network
    q1, q3, q4, q5 = n.conv1.input_quantizer, n.conv3.input_quantizer, n.relu3, n.fc.input_quantizer
    x = [
        [[min(q1.largest, max(-q1.largest, round(v))) for v in line] for line in rows]
        for rows in torch.mul(image, 1 / step_of(q1)).tolist()
    ]
    x = layer_by_hand(n.conv1, n.bn1, x, -q1.largest, q1.largest, step_of(q1), step_of(n.relu1))
    x = each(lambda v: min(n.relu1.largest, max(0, v)), x)
    # conv2's output is added to conv4's: a stream, in the finest step that reads it over 2^(BITS - 8)
    lsb = min(step_of(q3), step_of(q5)) / 2 ** (BITS - 8)
    y = layer_by_hand(n.conv2, n.bn2, x, 0, n.relu1.largest, step_of(n.relu1), lsb)
    z = each(lambda v: rescaled(v, lsb / step_of(q3), -q3.largest, q3.largest), y)
    z = layer_by_hand(n.conv3, n.bn3, z, -q3.largest, q3.largest, step_of(q3), step_of(q4))
    z = each(lambda v: min(q4.largest, max(0, v)), z)
    z = layer_by_hand(n.conv4, n.bn4, z, 0, q4.largest, step_of(q4), lsb)
    z = each(lambda a, b: a + b, z, y)
    pixels = len(z[0]) * len(z[0][0])
    pooled = [rescaled(sum(map(sum, rows)), lsb / pixels / step_of(q5), -q5.largest, q5.largest) for rows in z]
    planes, scales = planes_and_scales(n.fc)
    factors = [[scales[j][c] * step_of(q5) for c in range(len(scales[0]))] for j in range(len(planes))]
    _, _, shift = normalised([max(map(max, [[abs(f) for f in row] for row in factors]))], 0, 8)
    logits = []
    for c, bias in enumerate(n.fc.bias.tolist()):
        total = round(Fraction(bias) * Fraction(2) ** shift)
        for j, plane in enumerate(planes):
            accumulator = sum(w * v for w, v in zip(plane[c], pooled, strict=True))
            total += round(Fraction(factors[j][c]) * Fraction(2) ** shift) * accumulator
        logits.append(total)
    return logits, 2.0**-shift


@pytest.mark.parametrize(
    ("policy", "branches", "scales"), [("standard", 1, "layer"), ("everything", 2, "layer"), ("everything", 2, "channel")]
)
def test_a_tiny_network_by_hand(policy, branches, scales):
    network = make.tiny(policy=policy, branches=branches, scales=scales)
    program = compile_network(network, (3, 8, 8), Widths(fixed_point_bits=BITS)).program
    images = make.images(5)
    found = execute.run(program, images)
    for image, logits in zip(images, found.tolist(), strict=True):
        by_hand, lsb = logits_by_hand(network, image)
        assert logits == by_hand
        assert lsb == program.scale
    assert len(set(found.argmax(1).tolist())) > 1 or len(found.unique()) > 5
