"""Small networks that predict which experts are right, trained with Adam in float32 numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.types import FloatArray

Weights: TypeAlias = NDArray[np.float32]
Layers: TypeAlias = list[tuple[Weights, Weights]]  # (inputs x outputs), (outputs,)
Schedule: TypeAlias = Callable[[int, int], float]  # step, steps -> factor of the rate

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
WARM_UP = 500  # steps
NEVER = -30.0  # logit of an expert that was never observed
BLOCK = 4096  # queries predicted at once


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; ``decay`` is AdamW's, ``hidden`` the widths between in and out.

    ``batch_size`` None grows with the queries: a 64th of them, at least 8 and at most 256.
    """

    epochs: int
    batch_size: int | None
    rate: float
    schedule: str = "constant"
    decay: float = 0.0
    hidden: tuple[int, ...] = ()
    activation: str = "relu"

    def batch(self, queries: int) -> int:
        """Queries a step."""
        return self.batch_size or min(max(queries // 64, 8), 256)


def constant(step: int, steps: int) -> float:
    """The same rate throughout."""
    return 1.0


def cosine(step: int, steps: int) -> float:
    """From 1 to 0 along half a cosine."""
    return float(0.5 * (1 + np.cos(np.pi * step / steps)))


def warm_up(step: int, steps: int) -> float:
    """Linearly up over 500 steps, or half of them all, then linearly down to 0 at the end."""
    rising = min(WARM_UP, steps // 2)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / (steps - rising)


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "warm-up": warm_up}


def layers_of(parameters: Weights, sizes: Sequence[int]) -> Layers:
    """Views into a flat vector: a weight matrix and a bias for every step between two sizes."""
    layers, start = [], 0
    for inputs, outputs in pairwise(sizes):
        end = start + inputs * outputs
        weight = parameters[start:end].reshape(inputs, outputs)
        layers.append((weight, parameters[end : end + outputs]))
        start = end + outputs
    return layers


def train(vectors: FloatArray, targets: FloatArray, training: Training, seed: int) -> Weights:
    """Parameters of a network of sizes (dim, *hidden, experts) after minimising cross-entropy.

    ``targets`` (queries x experts) are scores in [0, 1], fractional ones as soft labels; NaN is
    left out of the loss, and an expert that was never observed ends with probability 0. Hidden
    layers start uniform within 1 / sqrt(inputs); the last one starts at zero, so that equal
    experts stay equal whatever their order.
    """
    generator = np.random.default_rng(seed)
    sizes = (vectors.shape[1], *training.hidden, targets.shape[1])
    inputs, outputs = np.asarray(vectors, np.float32), np.asarray(targets, np.float32)
    adam = _Adam(_start(sizes, generator), training.decay)
    layers, gradients = layers_of(adam.parameters, sizes), layers_of(adam.gradient, sizes)
    slope, schedule = _slope(training.activation), SCHEDULES[training.schedule]
    size = training.batch(len(inputs))
    batches = -(-len(inputs) // size)
    for epoch in range(training.epochs):
        order = generator.permutation(len(inputs))
        for number in range(batches):
            rows = order[number * size : (number + 1) * size]
            _backward(layers, gradients, inputs[rows], outputs[rows], training.activation, slope)
            step = epoch * batches + number
            adam.step(training.rate * schedule(step, training.epochs * batches))
    unseen = np.isnan(outputs).all(axis=0)
    weight, bias = layers[-1]
    weight[:, unseen], bias[unseen] = 0.0, NEVER
    return adam.parameters


def logits(vectors: FloatArray, layers: Layers, activation: str) -> FloatArray:
    """Log odds of being right in float64, shape (queries, experts)."""
    exact = [(weight.astype(float), bias.astype(float)) for weight, bias in layers]
    found = np.empty((len(vectors), len(exact[-1][1])))
    for start in range(0, len(vectors), BLOCK):
        values = np.asarray(vectors[start : start + BLOCK], float)
        for weight, bias in exact[:-1]:
            values = _activate(values @ weight + bias, activation)
        found[start : start + BLOCK] = values @ exact[-1][0] + exact[-1][1]
    return found


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), which never overflows."""
    chances: FloatArray = 0.5 * (1 + np.tanh(0.5 * values))
    return chances


def _activate(values: FloatArray, activation: str) -> FloatArray:
    active: FloatArray = np.tanh(values) if activation == "tanh" else np.maximum(values, 0)
    return active


def _slope(activation: str) -> Callable[[Weights], Weights]:
    """The derivative of the activation, from its value."""
    if activation == "tanh":
        return lambda value: 1 - np.square(value)
    return lambda value: (value > 0).astype(np.float32)


def _start(sizes: Sequence[int], generator: np.random.Generator) -> Weights:
    parts = []
    for inputs, outputs in pairwise(sizes[:-1]):
        bound = 1 / np.sqrt(inputs)
        parts.append(generator.uniform(-bound, bound, (inputs + 1) * outputs))
    parts.append(np.zeros((sizes[-2] + 1) * sizes[-1]))
    return np.concatenate(parts).astype(np.float32)


def _backward(
    layers: Layers,
    gradients: Layers,
    inputs: Weights,
    targets: Weights,
    activation: str,
    slope: Callable[[Weights], Weights],
) -> None:
    """Write the gradient of the mean cross-entropy over all cells of the batch."""
    values = [inputs]
    for weight, bias in layers[:-1]:
        values.append(_activate(values[-1] @ weight + bias, activation))
    weight, bias = layers[-1]
    delta = (sigmoid(values[-1] @ weight + bias) - targets) / np.float32(targets.size)
    if np.isnan(delta.sum()):  # one number to look at, where all cells would be as many again
        np.copyto(delta, 0.0, where=np.isnan(delta))
    for place in range(len(layers) - 1, -1, -1):
        np.matmul(values[place].T, delta, out=gradients[place][0])
        np.sum(delta, axis=0, out=gradients[place][1])
        if place:
            delta = (delta @ layers[place][0].T) * slope(values[place])


class _Adam:
    """Adam (Kingma and Ba, 2015) with decoupled decay, on one flat vector, in place."""

    def __init__(self, parameters: Weights, decay: float) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.gradient, self.first, self.second = (np.zeros_like(parameters) for _ in range(3))

    def step(self, rate: float) -> None:
        """One step against ``gradient``, which is overwritten."""
        self.steps += 1
        # The moments are kept without their factors 1 - beta, which saves two passes.
        size = rate * (1 - BETA1) / (1 - BETA1**self.steps)
        scale = math.sqrt((1 - BETA2) / (1 - BETA2**self.steps))
        first, second, gradient = self.first, self.second, self.gradient
        first *= np.float32(BETA1)
        first += gradient
        gradient *= gradient
        second *= np.float32(BETA2)
        second += gradient
        np.sqrt(second, out=gradient)
        gradient += np.float32(EPSILON / scale)
        np.divide(first, gradient, out=gradient)
        gradient *= np.float32(size / scale)
        if self.decay:
            self.parameters *= np.float32(1 - rate * self.decay)
        self.parameters -= gradient
