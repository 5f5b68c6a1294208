"""How the result depends on one or two numbers of Hyper: all points and seeds as one compiled program.

    python -m experiments.ablate acc_dd digits --hyper.perturb-max 0 0.03 0.09 0.27 --seeds 3

Writes ``ablation.csv`` (one line per point and seed) and ``ablation.png`` (mean and standard deviation over seeds).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from tyro.conf import FlagCreatePairsOff

from distill_jax import sweep
from distill_jax.distill import Problem, State
from distill_jax.spec import Hyper
from distill_jax.types import PyTree, RealData, RequestError
from experiments import cli, show
from experiments.entry import Interrupts, enter
from experiments.job import Job, Keys, make_pool, pool_path, read_pool, resolve
from experiments.plot import draw
from experiments.score import Judge, summary
from experiments.show import Bar
from experiments.workdir import CONFIG, POOL, Workdir, held, new_folder, refuse_used, replaced

CSV, PNG = "ablation.csv", "ablation.png"


@dataclass(frozen=True)
class Ablate(cli.Common):
    """Sweep one or two numbers: give --hyper.NAME two values or more, as in --hyper.perturb-max 0 0.03 0.09 0.27.

    All points and seeds share one pool of models and one compiled program.
    """

    seeds: int = 3
    """runs per point, with the seeds SEED, SEED + 1, ..."""
    repeats: int = 3
    """networks trained from scratch on the images of each run; a run's accuracy is their mean"""
    workdir: Path | None = None
    """where everything goes; default: a new folder under runs/"""
    overwrite: FlagCreatePairsOff[bool] = False
    """replace the ablation in WORKDIR"""
    pool: Path | None = None
    """models that experiments.pretrain trained; default: they are pretrained"""
    held_out: FlagCreatePairsOff[bool] = False
    """score on a tenth of the training data, withheld from all else, and not on the test set: to choose a value by"""

    @property
    def scored_on(self) -> str:
        return "held-out" if self.held_out else "test"


class Measured(NamedTuple):
    """What the sweep gave at each point and seed."""

    losses: np.ndarray
    """float32 [points, seeds]: mean matching loss of the last outer iteration"""
    accuracies: np.ndarray
    """[points, seeds], percent: mean over the repeats"""


def run(argv: list[str]) -> None:
    swept, rest = take_swept(argv)
    sweep.grid(Hyper(), swept)  # refuses unknown names before any data is read
    request = cli.request(rest, Ablate)
    options = request.options
    job = resolve(request, eval_every=int(options.held_out))
    _check(options, swept, job)
    given = read_pool(job, pool_path(options.pool)) if options.pool and job.spec.models.size else None
    path = options.workdir or new_folder(f"ablate-{job.folder}")
    if not options.overwrite:
        refuse_used(path)
    with held(path) as workdir, Interrupts() as interrupts:
        if not options.overwrite:
            refuse_used(path)
        workdir.clear()
        workdir.write(CONFIG, {**job.describe(), "swept": swept, "seeds": options.seeds, "repeats": options.repeats})
        print(show.configuration(job.title, job.experiment))
        print(*(_announced(job, name, values) for name, values in swept.items()), sep="\n", flush=True)
        data = job.data.real_data()
        pool = _pool(job, workdir, data, given, interrupts)
        hypers = sweep.grid(job.experiment.hyper, swept)
        measured = measure(job, options, hypers, data, pool, interrupts)
        _write(workdir, job, options, swept, hypers, measured)
    print("\n".join(_table(options, swept, hypers, measured)))
    print(f"figures {path / CSV}, picture {path / PNG}")


def take_swept(argv: Sequence[str]) -> tuple[dict[str, list[float]], list[str]]:
    """The fields of Hyper that ``argv`` gives two values or more, by name, and ``argv`` without them."""
    swept: dict[str, list[float]] = {}
    rest: list[str] = []
    i = 0
    while i < len(argv):
        end = i + 1
        while end < len(argv) and _is_number(argv[end]):
            end += 1
        if argv[i].startswith("--hyper.") and end > i + 2:
            swept[argv[i].removeprefix("--hyper.").replace("-", "_")] = [float(word) for word in argv[i + 1 : end]]
        else:
            rest += argv[i:end]
        i = end
    return swept, rest


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def measure(
    job: Job, options: Ablate, hypers: list[Hyper], data: RealData, pool: PyTree, interrupts: Interrupts
) -> Measured:
    """Distil at every point of ``hypers`` with every seed, then score all the sets."""
    roots = [Keys.of(options.seed + i).run for i in range(options.seeds)]
    problem = Problem(job.spec, job.net, job.experiment.hyper, data, pool, job.keys.run)
    problems = sweep.points(problem, hypers, roots)
    shape = len(hypers), options.seeds
    states, losses = _distilled(problems, interrupts)
    sets = sweep.training_sets(problems, states, options.repeats)
    judge = Judge(
        job.net, job.experiment.protocol, job.data.test_arrays(), data.mean, data.std, job.keys.score, interrupts
    )
    accuracies = np.asarray(judge.score("scoring", sets)["per_repeat"]).reshape(*shape, options.repeats)
    finite = np.asarray(jnp.isfinite(states.synthetic.images).all(axis=(1, 2, 3, 4, 5))).reshape(shape)
    if not finite.all():
        print(f"{np.sum(~finite)} of {finite.size} runs diverged: their images are not finite", file=sys.stderr)
    return Measured(losses.reshape(shape), accuracies.mean(axis=-1))


def _distilled(problems: Problem, interrupts: Interrupts) -> tuple[State, np.ndarray]:
    """The states [S, ...] after the last step, and the losses [S] of their last outer iteration."""
    spec, block = problems.spec, None
    with Bar("distilling", spec.steps, unit=f"steps of {problems.root.shape[0]} runs") as bar:
        for block in sweep.run(problems):
            bar.update(block.first + block.losses.shape[1], {"loss": f"{block.losses[:, -1].mean():.4g}"})
            interrupts.check()
    assert block is not None
    return block.state, block.losses[:, -1]


def _check(options: Ablate, swept: Mapping[str, Sequence[float]], job: Job) -> None:
    """Refuse what makes no sense, before anything is written."""
    if not 1 <= len(swept) <= 2:
        raise RequestError(
            f"{len(swept)} numbers are swept: give one or two of them several values, as in --hyper.perturb-max 0 0.09"
        )
    for name in ("seeds", "repeats"):
        if getattr(options, name) < 1:
            raise RequestError(f"{name} is {getattr(options, name)}: it must be at least 1")
    idle = [name for name in swept if name.startswith("perturb_")]
    if idle and not getattr(job.spec.models, "perturb", False):
        raise RequestError(
            f"{job.method} does not perturb its models, so hyper.{idle[0]} has no effect: add --models.perturb"
        )


def _announced(job: Job, name: str, values: Sequence[float]) -> str:
    kept = "; all share one pool, trained as above" if name.startswith("model_") and job.spec.models.size else ""
    return f"  swept             hyper.{name}: {' '.join(f'{value:g}' for value in values)}{kept}"


def _pool(job: Job, workdir: Workdir, data: RealData, given: PyTree, interrupts: Interrupts) -> PyTree:
    if job.spec.models.size == 0 or given is not None:
        return given
    make_pool(job, workdir, data, interrupts)
    return read_pool(job, workdir.path / POOL)


def _write(
    workdir: Workdir,
    job: Job,
    options: Ablate,
    swept: Mapping[str, list[float]],
    hypers: list[Hyper],
    measured: Measured,
) -> None:
    with replaced(workdir.path / CSV) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*swept, "seed", "accuracy", "loss"])
        for hyper, accuracies, losses in zip(hypers, measured.accuracies, measured.losses, strict=True):
            for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
                values = [getattr(hyper, name) for name in swept]
                writer.writerow([*values, options.seed + i, round(float(accuracy), 4), float(loss)])
    title = f"{job.method} on {job.dataset}, {job.spec.ipc} per class"
    with replaced(workdir.path / PNG) as temporary:
        draw(title, f"{options.scored_on} accuracy, %", swept, measured.accuracies).savefig(
            temporary, format="png", dpi=150
        )


def _table(options: Ablate, swept: Mapping[str, list[float]], hypers: list[Hyper], measured: Measured) -> list[str]:
    rows = [[*swept, f"{options.scored_on} accuracy %", "seeds", "loss"]]
    for hyper, accuracies, losses in zip(hypers, measured.accuracies.tolist(), measured.losses, strict=True):
        values = [f"{getattr(hyper, name):g}" for name in swept]
        rows.append([*values, show.plus_minus(summary(accuracies)), str(len(accuracies)), f"{np.mean(losses):.4g}"])
    return show.table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    return enter(run, argv)


if __name__ == "__main__":
    sys.exit(main())
