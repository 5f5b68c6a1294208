"""Scores a distilled set: trains networks on it from scratch and tests each of them once.

python -m experiments.evaluate runs/demo --dataset digits
python -m experiments.evaluate distilled.npz --dataset cifar10 --nets convnet resnet18 densenet121 --protocol dc-bench
python -m experiments.evaluate runs/demo --dataset digits --protocol dd-ranking      # HLR, IOR, LRS and ARS as well

Prints the accuracy of R networks of each architecture (mean, standard deviation, 95 % interval of the mean) and adds it
to ``evaluation.json`` next to the set. If the set has soft labels, the networks train on them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.check_data import check_same_data, dataset_of
from distill_jax.check_spec import check_augmentations, validate
from distill_jax.cli.output import display
from distill_jax.cli.process.clock import Clock, environment, peak_bytes
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.request.choices import choice_name, choose, network_of
from distill_jax.cli.request.parser import parsed
from distill_jax.cli.request.read_data import read
from distill_jax.cli.session import evaluations
from distill_jax.cli.session.dd_ranking import dd_ranking_scores
from distill_jax.cli.session.resume import resumable
from distill_jax.cli.session.score import Scorer, interval
from distill_jax.cli.session.set_files import foreign_set, set_in
from distill_jax.cli.session.workdir import DISTILLED, EVALUATION, refuse_read_only
from distill_jax.contracts import Architecture
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import DD_RANKING, PROTOCOLS, Protocol, at_learned_rate, repeated
from distill_jax.formats import FORMATS, recognised
from distill_jax.methods import METHODS
from distill_jax.nets import ARCHITECTURES
from distill_jax.recipes import RECIPE_OF, Experiment, resolve
from distill_jax.run import Keys
from distill_jax.spec import from_json, to_json
from distill_jax.types import RequestError, lookup, require_at_least

TEST_DATA = (
    "Each network was tested once, after its last epoch. Nothing was selected on the test data: no learning rate, "
    "number of epochs, network or image."
)

SETS = (
    "a distilled.npz, the workdir of a run, or a file or folder of another codebase (data_best.pt, images_best.pt, ...)"
)

NETS = (
    f"networks to train, of: {' '.join(ARCHITECTURES)}. The architecture that the set was distilled with keeps its "
    "settings, others have their defaults; default: that architecture"
)


@dataclass(frozen=True)
class Evaluate:
    """Train networks from scratch on a distilled set, and test them on the real test images."""

    path: Positional[Annotated[Path, arg(metavar="PATH", help=SETS)]]
    dataset: Annotated[str, arg(metavar="DATASET")] = ""
    """digits, npz:PATH, folder:PATH, hf:PATH, or a name of TensorFlow Datasets; default: the data set in the card of
    the set, with its classes"""
    subset: arguments.Subset = None
    nets: Annotated[tuple[str, ...] | None, arg(metavar="NET [NET ...]", help=NETS)] = None
    repeats: int = 5
    """R: number of networks of each architecture, from different seeds"""
    epochs: Annotated[int | None, arg(metavar="INT")] = None
    """epochs of training, to which the schedule dc adds one; default: the protocol's"""
    full_epochs: Annotated[int | None, arg(metavar="INT")] = None
    """with --protocol dd-ranking, epochs on all training data; default: the protocol's"""
    format: Annotated[str | None, arg(metavar="|".join(FORMATS))] = None
    """format of a set of another codebase; default: recognised by the names of its files"""
    factor: Annotated[int | None, arg(metavar="INT")] = None
    """decode with this factor instead of the factor in the card"""
    protocol: Annotated[str | None, arg(metavar="|".join(PROTOCOLS))] = None
    """evaluation protocol; default: the protocol of the score in the card of the set"""
    recipe: Annotated[str | None, arg(metavar="NAME")] = None
    """recipe with the protocol's numbers for the data set; default: the data set's recipe, or the recipe that the set
    was distilled with"""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """file for the scores; default: evaluation.json next to the set, or in the current folder for a set that comes with
    the library"""
    devices: arguments.Devices = 0
    seed: int = 0
    """seed of the networks, and of the random images of dd-ranking"""
    resume: FlagCreatePairsOff[bool] = False
    """keep the networks that an interrupted evaluation with the same options finished"""


def run(argv: list[str]) -> None:
    options = parsed(Evaluate, argv, "evaluate")
    _check(options)
    distilled, data = _read(options)
    if not options.dataset:
        name, subset = dataset_of(distilled, options.path)
        options = replace(options, dataset=name, subset=options.subset or subset)
    out = options.out or (options.path if options.path.is_dir() else options.path.parent) / EVALUATION
    if out.is_dir():
        raise RequestError(f"--out {out} is a folder: name a file in it, as in --out {out / EVALUATION}")
    refuse_read_only(out.parent, "--out")
    evaluations.read(out, "give another --out")  # refuses any other file before training
    for name in options.nets or ():
        choose("net", name, option="--nets")
    if data is None or data.shape != distilled.shape:  # photographs, which were cropped to the default side
        data = read(options.dataset, distilled.shape[0], options.subset or ())
    if warning := check_same_data(distilled, options.path, data, options.dataset):
        print(f"warning: {warning}", file=sys.stderr)
    experiment = _experiment(distilled, options)
    validate(experiment.protocol, "protocol.")
    check_augmentations(experiment.protocol, data.shape, "protocol.")
    preset = experiment.spec.net
    architectures = {name: choose("net", name, preset) for name in options.nets or ()}
    architectures = architectures or {choice_name("net", preset): preset}
    for architecture in architectures.values():
        architecture.build(data.shape, data.classes)  # refuses a network that does not fit before training

    print(f"{options.path}: {distilled.decoded_count} images, {display.shown(experiment.protocol)}", flush=True)
    with resumable("evaluate", argv):
        found = _evaluated(distilled, data, architectures, experiment.protocol, options, out)
    print(report(found))
    print(f"{TEST_DATA}\nall figures {out}")


def _evaluated(
    distilled: DistilledSet,
    data: Dataset,
    architectures: Mapping[str, Architecture],
    protocol: Protocol,
    options: Evaluate,
    out: Path,
) -> dict[str, Any]:
    """Return a new entry of ``evaluation.json``, which is written after every architecture."""
    test, keys, clock = data.test_arrays(), Keys.of(options.seed), Clock()
    found = _entry(distilled, data, protocol, options)
    known = evaluations.networks(out, found)
    clock.spent(None)
    with Interrupts() as interrupts:
        for name, architecture in architectures.items():
            about = json.loads(json.dumps(to_json(architecture)))
            if options.resume and known.get(name, {}).get("net") == about:
                found["nets"][name] = known[name]
                continue
            before = clock.rounded()
            net = architecture.build(data.shape, data.classes)
            scorer = Scorer(net, protocol, test, distilled.normaliser, keys.score, interrupts)
            ranking, repeats = None, options.repeats
            if protocol.name == DD_RANKING.name:
                real, full = data.real_data(), options.full_epochs
                ranking = dd_ranking_scores(scorer, distilled, real, repeats, keys.draw, full)
            accuracy = (
                ranking["accuracies"]["distilled"] if ranking else scorer.score(name, repeated(distilled, repeats))
            )
            clock.spent("evaluate")
            spent = {phase: round(clock.seconds[phase] - before[phase], 3) for phase in ("compile", "evaluate")}
            found["nets"][name] = {
                "net": about,
                "accuracy": accuracy,
                "interval_95": interval(accuracy),
                "seconds": spent,
                **({"ranking": ranking} if ranking else {}),
            }
            found["seconds"] = _seconds(found)
            found["peak_bytes"] = peak_bytes()
            evaluations.add(out, found)
    return found


def _entry(distilled: DistilledSet, data: Dataset, protocol: Protocol, options: Evaluate) -> dict[str, Any]:
    """Return an entry without networks, in the form of the file."""
    about = {name: distilled.card[name] for name in ("method", "ipc", "seed") if name in distilled.card}
    entry = {
        "set": {
            "file": DISTILLED if (options.path / DISTILLED).exists() else options.path.name,
            "hash": distilled.card["hash"],
            "factor": distilled.card["factor"],
            "labels": distilled.card.get("labels", "hard"),
            "images": distilled.decoded_count,
            **about,
        },
        "dataset": {
            "name": options.dataset,
            **({"subset": options.subset} if options.subset else {}),
            "fingerprint": data.fingerprint,
            "test_images": len(data.y_test),
        },
        "protocol": to_json(protocol),
        "repeats": options.repeats,
        "seed": options.seed,
        **({"full_epochs": options.full_epochs} if options.full_epochs else {}),
        "nets": {},
        "seconds": {"compile": 0.0, "evaluate": 0.0},
        "peak_bytes": 0,
        "environment": environment(),
        "test_data": TEST_DATA,
    }
    return json.loads(json.dumps(entry))


def _seconds(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of all networks, also of those that an earlier process trained."""
    each = [of["seconds"] for of in found["nets"].values()]
    return {phase: round(sum(of[phase] for of in each), 3) for phase in ("compile", "evaluate")}


def report(found: Mapping[str, Any]) -> str:
    """Format the accuracies, and DD-Ranking's scores if there are any, as small tables."""
    rows = [["net", "accuracy %", "95 % interval", "repeats", "train and test", "compile"]]
    scores = [["net", "HLR", "IOR", "LRS", "ARS", "all data %", "random %"]]
    for name, of in found["nets"].items():
        limits = "-" if of["interval_95"] is None else "{:.2f} to {:.2f}".format(*of["interval_95"])
        took = [display.duration(of["seconds"][phase]) for phase in ("evaluate", "compile")]
        rows.append([name, display.plus_minus(of["accuracy"]), limits, str(found["repeats"]), *took])
        if "ranking" in of:
            accuracies, score = of["ranking"]["accuracies"], of["ranking"]["scores"]
            cells = [display.plus_minus(score[key], 3) for key in ("hlr", "ior", "lrs", "ars")]
            scores.append([name, *cells, *(display.plus_minus(accuracies[key]) for key in ("full", "random"))])
    seconds = _seconds(found)
    lines = display.table(rows) + (display.table(scores) if len(scores) > 1 else [])
    total = display.duration(sum(seconds.values()))
    return "\n".join([*lines, f"total {total}, of which {display.duration(seconds['compile'])} compiling"])


def _check(options: Evaluate) -> None:
    """Raise RequestError for invalid options."""
    if options.protocol is not None:
        lookup("protocol", options.protocol, PROTOCOLS)
    if options.full_epochs is not None and options.full_epochs < 1:
        raise RequestError(f"full_epochs is {options.full_epochs}: it must be at least 1")
    if options.full_epochs is not None and options.protocol != DD_RANKING.name:
        raise RequestError(f"only --protocol {DD_RANKING.name} trains on all data: leave out --full-epochs")
    require_at_least(1, options, "repeats")
    arguments.check_numbers(options.seed, options.devices)
    if options.nets is not None and len(set(options.nets)) < len(options.nets):
        raise RequestError(f"--nets {' '.join(options.nets)} names a network twice: name each once")


def _read(options: Evaluate) -> tuple[DistilledSet, Dataset | None]:
    """Return the set, and its real data if they had to be read to read the set."""
    path, factor, name = options.path, options.factor, options.format
    if name is None:
        try:
            distilled = set_in(path)
        except RequestError as error:
            name = recognised(path)
            if name is None or (name == "kip" and "damaged" in str(error)):  # any npz file may be one of KIP
                raise
        else:
            distilled = distilled if factor is None else distilled.with_factor(factor)
            distilled.parameterisation.check(distilled.shape)
            return distilled, None
    data = read(options.dataset, None, options.subset or ()) if options.dataset else None
    return foreign_set(path, name, factor, data), data


def _experiment(distilled: DistilledSet, options: Evaluate) -> Experiment:
    """Return the network and the protocol in the card of the set, or, if it has none, those of the recipe."""
    card = distilled.card
    recipe = options.recipe or RECIPE_OF.get(options.dataset) or card.get("recipe", "generic")
    method = card["method"] if card.get("method") in METHODS else "acc_dd"
    ipc = len(distilled.images) // distilled.classes
    shape, factor = distilled.shape, card["factor"]
    experiment = resolve(method, recipe, ipc=ipc, shape=shape, factor=factor, protocol=options.protocol)
    net, own = network_of(card, options.path, options.nets is None), from_json(card.get("protocol"), Protocol())
    asked = options.protocol is not None or options.recipe is not None
    protocol = experiment.protocol if asked or own is None else own
    protocol = at_learned_rate(protocol, distilled)
    if options.epochs is not None:
        protocol = replace(protocol, epochs=options.epochs)
    if net is not None:
        experiment = replace(experiment, spec=replace(experiment.spec, net=net))
    return replace(experiment, protocol=protocol)


main = partial(run_command, run, less_memory="fewer --repeats, or smaller networks in --nets")
