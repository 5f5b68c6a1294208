"""Evaluation: train R networks from scratch on a distilled set in one compiled program, and test them.

A protocol defines the training. Every protocol tests once, after the last epoch. No learning rate, epoch or network is
chosen by its test accuracy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import hosts, mesh
from distill_jax.augment import NoAugment, Siamese
from distill_jax.check_data import check_same_data
from distill_jax.check_spec import check_augmentations, require_type, validate
from distill_jax.contracts import Architecture, Augmentation
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.nets import ConvNet
from distill_jax.run import BlockSize, Callback, Keys, host_loop
from distill_jax.schedules import SCHEDULES
from distill_jax.train import NetworkAdam, NetworkSGD, Pipeline, count_correct
from distill_jax.train_many import (
    Course,
    Networks,
    Optimiser,
    Sets,
    begin,
    models_of,
    networks_at_once,
    train_epochs,
)
from distill_jax.types import (
    Array,
    Choice,
    Model,
    Net,
    Normaliser,
    RequestError,
    TrainSet,
    choice,
    require_at_least,
    require_optimiser,
)


@choice
class Protocol(Choice):
    """An evaluation protocol: networks train on the set from scratch and are tested once, after the last epoch."""

    name: str = "idc"
    epochs: int = 1000
    """E: number of epochs; schedule 'dc' adds one"""
    batch: int = 64
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["thirds", "half", "dc", "constant"] = "thirds"
    """drops of the learning rate over E epochs: 'thirds' to a fifth after 2/3 and again after 5/6, 'half' to a tenth
    after 1/2, 'dc' to a tenth after 1/2 with a new optimiser and an extra epoch, 'constant' none"""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """'adam' is AdamW with ``momentum`` as its beta 1"""
    cutmix: float = 0.5
    augment: Augmentation = Siamese("color_crop_flip_scale_rotate")

    def validate(self) -> None:
        require_at_least(1, self, "epochs")
        if self.schedule not in SCHEDULES:
            raise RequestError(f"schedule {self.schedule!r} is unknown: choose one of {' '.join(SCHEDULES)}")
        if self.optimiser not in ("sgd", "adam"):
            raise RequestError(f"optimiser {self.optimiser!r} is unknown: choose sgd or adam")
        if self.optimiser == "adam" and SCHEDULES[self.schedule].restarts:
            raise RequestError(f"schedule {self.schedule} restarts SGD: for adam, choose another, such as half")
        require_optimiser(self, "rate", "momentum")
        require_at_least(0, self, "weight_decay")
        Pipeline(self.batch, self.cutmix).validate()

    @property
    def passes(self) -> int:
        """Number of epochs, including the extra epoch of the schedule."""
        return self.epochs + SCHEDULES[self.schedule].extra

    @property
    def course(self) -> Course:
        return Course(Pipeline(self.batch, self.cutmix, self.augment), self.epochs, self.schedule)

    @property
    def network_optimiser(self) -> Optimiser:
        kind = NetworkAdam if self.optimiser == "adam" else NetworkSGD
        return kind(self.rate, self.momentum, self.weight_decay)


IDC_PROTOCOL = Protocol()
"""IDC and Acc-DD: 1000 epochs, rate x0.2 at 2/3 and 5/6, cutmix instead of cutout."""

DC_BENCH = Protocol(name="dc-bench", epochs=300, batch=256, schedule="dc", cutmix=0.0, augment=NoAugment())
"""DC-Bench (Cui et al. 2022) without augmentation, which is also DC's evaluation."""

CAFE_PROTOCOL = replace(DC_BENCH, name="cafe", epochs=600)
"""CAFE: DC's evaluation with twice as many epochs."""

DSA_PROTOCOL = replace(
    DC_BENCH, name="dsa", epochs=1000, augment=Siamese("color_crop_cutout_flip_scale_rotate", choose="one")
)  # fmt: skip
"""DSA, DM and MTT: 1001 epochs, rate x0.1 with a new optimiser from the 503rd, one augmentation per batch. MTT starts
from its learned rate (``at_learned_rate``)."""

DATM_PROTOCOL = replace(DSA_PROTOCOL, name="datm", batch=128)
"""DATM: DSA's evaluation with smaller batches, from the learned rate."""

RAT_PROTOCOL = Protocol(
    name="rat", batch=100, rate=1e-3, weight_decay=0.0, schedule="constant", optimiser="adam", cutmix=0.0,
    augment=Siamese("flip_rotate", choose="one"),
)  # fmt: skip
"""RaT-BPTT: Adam at a constant rate, as in its unrolled training. The paper reports the best of four test accuracies,
after 300 to 3000 steps. Here it is the accuracy after ``epochs``, which is 1000 steps for 10 images of 10 classes."""

DD_RANKING = replace(DSA_PROTOCOL, name="dd-ranking", epochs=300, schedule="half")
"""The training for DD-Ranking's scores (``ranking.py``): its defaults for SGD with DSA's augmentation, and soft
cross-entropy for soft labels. Its code reports the best of several test accuracies and searches the learning rate for
random images on the test set. Here the rate is fixed and only the last epoch is tested."""

PROTOCOLS = {protocol.name: protocol for protocol in (
    IDC_PROTOCOL, DC_BENCH, CAFE_PROTOCOL, DSA_PROTOCOL, DATM_PROTOCOL, RAT_PROTOCOL, DD_RANKING,
)}  # fmt: skip

LEARNED_RATE = (DSA_PROTOCOL.name, DATM_PROTOCOL.name)
"""protocols that start from the learning rate in the card of the set, if there is one"""


def train_networks(
    net: Net,
    protocol: Protocol,
    sets: Sets,
    key: Array,
    normaliser: Normaliser,
    callbacks: Sequence[Callback] = (),
    chunk: int = 0,
) -> Model:
    """Train one network from scratch on each of R sets; return Model[R]. ``callbacks`` see blocks of epochs.

    Each device trains ``chunk`` networks at once (0: ``networks_at_once``). The result depends neither on ``chunk`` nor
    on the blocks.
    """
    repeats, size = sets.rows.shape
    chunk = chunk or networks_at_once(repeats, min(protocol.batch, size), sets.store.images.shape[1:])
    sets = sets if protocol.name in LEARNED_RATE else sets._replace(rates=None)
    course, optimiser = protocol.course, protocol.network_optimiser
    none = np.zeros(0, np.float32)

    def advance(networks: Networks, first: int, count: int) -> tuple[Networks, np.ndarray]:
        networks = train_epochs(net, course, chunk, networks, optimiser, sets, normaliser, first, count)
        return jax.block_until_ready(networks), none

    passes = protocol.passes
    networks = begin(net, optimiser, jax.random.split(key, repeats))
    return models_of(net, host_loop(advance, networks, 0, passes, callbacks, BlockSize(longest=passes)))


def evaluate(
    distilled: DistilledSet,
    data: Dataset,
    protocol: Protocol | None = None,
    net: Architecture | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> list[float]:
    """Train ``repeats`` networks on ``distilled`` and return the test accuracy of each in percent.

    The default protocol is IDC's and the default network is a ConvNet-3. The protocols in LEARNED_RATE start from the
    learned rate of the set. Raise RequestError if the protocol, the network or the set does not fit ``data``, and warn
    if the set was distilled from other images.
    """
    protocol, net = protocol or IDC_PROTOCOL, net or ConvNet()
    require_type(DistilledSet, "DistilledSet.load(PATH)", distilled=distilled)
    require_type(Dataset, "load(DATASET)", data=data)
    require_type(Protocol, 'evaluation.PROTOCOLS["idc"]', protocol=protocol)
    require_type(Architecture, "nets.ConvNet()", net=net)
    if repeats < 1:
        raise RequestError(f"repeats is {repeats}: it must be at least 1")
    if warning := check_same_data(distilled, "the set", data, data.name):
        warnings.warn(warning, stacklevel=2)
    network, protocol = net.build(data.shape, data.classes), at_learned_rate(protocol, distilled)
    validate(protocol, "protocol.")
    check_augmentations(protocol, data.shape, "protocol.")
    models = train_networks(network, protocol, repeated(distilled, repeats), Keys.of(seed).score, distilled.normaliser)
    return test_accuracies(network, models, data.test_arrays(), distilled.normaliser)


def at_learned_rate(protocol: Protocol, distilled: DistilledSet) -> Protocol:
    """Return ``protocol`` with the learned rate in the card of the set, if the protocol uses it (MTT, DATM)."""
    rate = distilled.card.get("rate")
    return replace(protocol, rate=rate) if rate and protocol.name in LEARNED_RATE else protocol


def repeated(distilled: DistilledSet, repeats: int) -> Sets:
    """Return ``repeats`` copies of the distilled set, exactly as a user loads it from its file."""
    images, _ = distilled.arrays()
    return Sets.same(TrainSet(jnp.asarray(images), jnp.asarray(distilled.targets())), repeats)


def test_accuracies(net: Net, models: Model, test: tuple[Array, Array], normaliser: Normaliser) -> list[float]:
    """Return the accuracy in percent of each of ``models`` [R, ...] on ``test``, uint8 [N, H, W, c] and int [N]."""
    counts = _count_correct(net, models, jnp.asarray(test[0]), jnp.asarray(test[1]), normaliser)
    return [100.0 * float(count) / len(test[1]) for count in np.asarray(hosts.gather(counts))]


def matched_epochs(protocol: Protocol, images: int, other: int) -> Protocol:
    """Return ``protocol`` for a set of ``other`` images, with about as many steps as for a set of ``images`` images."""
    steps = protocol.epochs * -(-images // protocol.batch)
    return replace(protocol, epochs=max(1, round(steps / -(-other // protocol.batch))))


@partial(jax.jit, static_argnums=0)
def _count_correct(net: Net, models: Model, images: Array, labels: Array, normaliser: Normaliser) -> Array:
    return mesh.map_chunks(partial(count_correct, net), models, 1, images, labels, normaliser)
