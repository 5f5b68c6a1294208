"""Score a distilled set: train networks on it from scratch, and test them once.

python -m experiments.evaluate runs/demo --dataset digits
python -m experiments.evaluate distilled.npz --dataset cifar10 --nets convnet resnet18 --repeats 5
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import tyro
from tyro.conf import Positional, arg

from configs import RECIPE_OF, named, resolve
from configs.methods import METHODS
from configs.recipe import Experiment
from distill_jax.data import Dataset, load
from distill_jax.distilled import DistilledSet
from distill_jax.evaluate import PROTOCOLS
from distill_jax.types import RequestError
from experiments import cli, show
from experiments.entry import Interrupts, enter
from experiments.job import Keys, rebuilt
from experiments.measure import Clock
from experiments.score import Judge, distilled_sets
from experiments.workdir import DISTILLED


@dataclass(frozen=True)
class Evaluate:
    """Train networks from scratch on a distilled set, and test them on the real test images. Writes nothing."""

    path: Positional[Annotated[Path, arg(metavar="PATH", help="a distilled.npz, or the workdir that it is in")]]
    dataset: Annotated[str, arg(metavar="DATASET")]
    """digits, npz:PATH, folder:PATH, or a name of TensorFlow Datasets"""
    nets: Annotated[tuple[str, ...] | None, arg(metavar="NET [NET ...]")] = None
    """networks to train, each with its own defaults; default: the one the set was distilled with"""
    repeats: int = 5
    """R: networks of each kind, from different seeds"""
    epochs: int | None = None
    """default: as the protocol says"""
    factor: int | None = None
    """decode with this factor, instead of the one in the card"""
    protocol: Annotated[str | None, arg(metavar="|".join(PROTOCOLS))] = None
    """how networks are trained and tested; default: as for the score in the set's card"""
    recipe: Annotated[str | None, arg(metavar="NAME")] = None
    """what --protocol idc takes its numbers from; default: the data set's, or the one the set was distilled with"""
    seed: int = 0


def run(argv: list[str]) -> None:
    options = tyro.cli(Evaluate, args=argv, prog="python -m experiments.evaluate", description=inspect.getdoc(Evaluate))
    if options.protocol is not None:
        named("protocol", options.protocol, PROTOCOLS)
    if options.repeats < 1:
        raise RequestError(f"repeats is {options.repeats}: it must be at least 1")
    distilled = _read(options)
    architectures = {name: cli.choose("net", name) for name in options.nets or ()}
    data = load(options.dataset)
    _check_same_data(distilled, data, options)
    experiment = _experiment(distilled, options)
    protocol = experiment.protocol
    if options.epochs is not None:
        protocol = replace(protocol, epochs=options.epochs)
    architectures = architectures or {cli.choice_name("net", experiment.spec.net): experiment.spec.net}
    nets = {name: architecture.build(data.shape, data.classes) for name, architecture in architectures.items()}

    sets, clock = distilled_sets(distilled, options.repeats), Clock()
    print(f"{options.path}: {len(sets.store.images)} images, {protocol}", flush=True)
    rows = [["net", "accuracy %", "repeats", "time"]]
    mean, std = jnp.asarray(distilled.mean), jnp.asarray(distilled.std)
    with Interrupts() as interrupts:
        for name, net in nets.items():
            test = data.test_arrays()
            judge = Judge(net, protocol, test, mean, std, Keys.of(options.seed).score, interrupts)
            began = sum(clock.seconds.values())
            accuracy = judge.score(name, sets)
            clock.spent("evaluate")
            took = show.duration(sum(clock.seconds.values()) - began)
            rows.append([name, show.plus_minus(accuracy), str(options.repeats), took])
    print("\n".join(show.table(rows)))


def _read(options: Evaluate) -> DistilledSet:
    path = options.path / DISTILLED if options.path.is_dir() else options.path
    distilled = DistilledSet.load(path)
    if options.factor is None:
        return distilled
    distilled = distilled.with_factor(options.factor)
    distilled.parameterisation.check(distilled.shape)
    return distilled


def _check_same_data(distilled: DistilledSet, data: Dataset, options: Evaluate) -> None:
    """Refuse test images that the set cannot be meant for."""
    if data.shape != distilled.shape:
        sizes = ["x".join(map(str, shape)) for shape in (data.shape, distilled.shape)]
        raise RequestError(
            f"{options.dataset} has images {sizes[0]}, {options.path} has {sizes[1]}: give its own --dataset"
        )
    if distilled.zca is not None and data.whitening is None:
        raise RequestError(
            f"{options.path} stands for whitened images, {options.dataset} is not: give --dataset zca:{options.dataset}"
        )
    if list(data.class_names) != list(distilled.card["class_names"]):
        raise RequestError(
            f"{options.dataset} has other classes ({', '.join(data.class_names[:3])}, ...) than {options.path} "
            f"({', '.join(map(str, distilled.card['class_names'][:3]))}, ...): give its own --dataset"
        )


def _experiment(distilled: DistilledSet, options: Evaluate) -> Experiment:
    """The network and the protocol that the set's own score is from; where it has none, those of the recipe."""
    card = distilled.card
    recipe = options.recipe or RECIPE_OF.get(options.dataset) or card.get("recipe", "generic")
    method = card["method"] if card.get("method") in METHODS else "acc_dd"
    ipc = len(distilled.images) // distilled.classes
    experiment = resolve(method, recipe, ipc=ipc, shape=distilled.shape, factor=card["factor"])
    net, protocol = rebuilt(card.get("net")), rebuilt(card.get("protocol"))
    if options.protocol is not None:
        # The published protocol leaves its numbers to the data set.
        own = options.protocol == experiment.protocol.name
        protocol = experiment.protocol if own else PROTOCOLS[options.protocol]
    if net is not None:
        experiment = replace(experiment, spec=replace(experiment.spec, net=net))
    return replace(experiment, protocol=protocol or experiment.protocol)


def main(argv: Sequence[str] | None = None) -> int:
    return enter(run, argv)


if __name__ == "__main__":
    sys.exit(main())
