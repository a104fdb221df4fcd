"""Measure the latency of our networks and their peers in several runtimes."""

import copy
import os
import statistics
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmcdnv2 import ops
from mmcdnv2.complexity import count_macs, count_params, time_rounds
from mmcdnv2.errors import InputError
from mmcdnv2.layers import condense_layers
from mmcdnv2.machine import processor_name

from .authors_structure import condensed_as_the_authors
from .networks import NETWORKS, Network, build_network, read_top1
from .runtimes import RUNTIMES, Call, Job, as_tensors

# Largest accepted difference of an output, relative to its largest value.
TOLERANCE = 1e-4
# Sizes of the square matrices to multiply; number of floats to copy, beyond caches.
MATRICES = (512, 1024, 2048)
COPIED = 2**26

Track = Callable[[Iterable, str], Iterable]


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark.

    Attributes:
        models (tuple[str]): Networks, for all of their forms, or single forms as
            'NETWORK-FORM'. Empty for all networks.
        runtimes (tuple[str]): Names in :data:`RUNTIMES`.
        part (str): 'classifier' or 'backbone'.
        size (tuple[int]): Height and width of the input in pixels.
        batch (int): Number of images.
        threads (int): Number of threads and pinned cores.
        rounds (int): Number of timings of each model in each runtime.
        baseline (str, optional): MODEL:RUNTIME with ratio 1. Defaults to the
            first one that runs.
        seed (int): Seed of the weights and the input.
    """

    models: Tuple[str, ...] = ()
    runtimes: Tuple[str, ...] = ('eager', 'onnxruntime', 'openvino')
    part: str = 'classifier'
    size: Tuple[int, int] = (224, 224)
    batch: int = 1
    threads: int = 1
    rounds: int = 20
    baseline: Optional[str] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('batch', 'threads', 'rounds'):
            if getattr(self, name) < 1:
                raise InputError(f'{name} must be at least 1.')
        if min(self.size) < 32:
            raise InputError(
                'The input must be at least 32 pixels high and wide, got '
                f'{self.size[0]} x {self.size[1]}.'
            )


@dataclass
class Row:
    """Measurements of a model in a runtime.

    Attributes:
        network (str): Name of the network.
        form (str): Form of the network, or '' if it has only one.
        runtime (str): Name of the runtime.
        family (str): See :class:`Network`.
        ms (float): Median latency of a batch in milliseconds.
        spread (float): Interquartile range of the latencies divided by their
            median.
        ratio (float): Latency divided by the baseline's.
        macs (int): MACs of the condensed network per image.
        gflops (float): 10^9 floating-point operations per second, two per MAC.
        product_share (float): ``gflops`` divided by the matrix product's.
        copy_share (float): 10^9 bytes per second (parameters and images read,
            outputs written, once each) divided by the copy's.
        params (int): Parameters of the condensed network.
        top1 (float, optional): Published ImageNet top-1 accuracy in percent.
        source (str): Where it was published.
        difference (float): Largest difference of an output from the network's
            first form in eager mode, relative to the largest value.
        times (list[float]): All latencies in milliseconds.
    """

    network: str
    form: str
    runtime: str
    family: str
    ms: float
    spread: float
    ratio: float
    macs: int
    gflops: float
    product_share: float
    copy_share: float
    params: int
    top1: Optional[float]
    source: str
    difference: float
    times: List[float] = field(repr=False)

    @property
    def model(self) -> str:
        """str: Name of the network and its form."""
        return _model_name(self.network, self.form)


@dataclass
class Report:
    """Results of a benchmark.

    Attributes:
        settings (Settings): The settings.
        environment (dict[str, str]): Processor, cores and versions.
        product_gflops (float): GFLOP/s of the fastest matrix product.
        copy_gbytes (float): 10^9 bytes per second, read and written, of a
            copy in memory.
        rows (list[Row]): By network, form and runtime.
        left_out (dict[str, list[str]]): Models that could not run, by reason.
    """

    settings: Settings
    environment: Dict[str, str]
    product_gflops: float
    copy_gbytes: float
    rows: List[Row]
    left_out: Dict[str, List[str]]


@dataclass
class _Candidate:
    """A model in a runtime, ready to run; see :class:`Row` for the attributes."""

    network: str
    form: str
    runtime: str
    call: Call
    difference: float
    macs: int
    params: int
    traffic: int

    @property
    def name(self) -> str:
        return f'{_model_name(self.network, self.form)}:{self.runtime}'


def model_names() -> List[str]:
    """Return the names of all models: networks and forms of networks."""
    return [name for _, _, name in _all_models()]


@torch.no_grad()
def measure_latency(
    settings: Settings, root: Path, track: Track = lambda steps, text: steps
) -> Report:
    """Time networks in interleaved rounds.

    Args:
        settings (Settings): The settings.
        root (Path): Folder with our ``configs`` and model index.
        track (Callable): Shows the progress of a loop: takes an iterable and a
            text, and returns the iterable.

    Returns:
        Report: The results.

    Raises:
        InputError: If a model or the baseline does not exist, there are fewer
            cores than threads, or nothing could be run.
    """
    models = _select(settings)
    with pinned(settings.threads) as cores:
        left_out: Dict[str, List[str]] = {}
        runtimes = _installed(settings.runtimes, left_out)
        torch.manual_seed(settings.seed)
        images = torch.randn(settings.batch, 3, *settings.size)
        candidates: List[_Candidate] = []
        for name, forms in track(list(models.items()), 'Preparing'):
            candidates += _prepare(
                name, forms, runtimes, images, settings, root, left_out
            )
        baseline = _find_baseline(candidates, settings.baseline, left_out)
        products = matrix_products()
        times = time_rounds(
            [*(c.call for c in candidates), *products.values(), _copying()],
            track(range(settings.rounds), 'Timing'),
        )
        environment = environment_of(cores, runtimes)
    medians = [statistics.median(record) for record in times]
    product_gflops = best_product_gflops(products, medians[len(candidates) : -1])
    # Four bytes per float, read and written.
    copy_gbytes = 2 * 4 * COPIED / medians[-1] / 1e6
    top1 = read_top1(root)
    rows = []
    for candidate, record, ms in zip(candidates, times, medians):
        gflops = 2 * candidate.macs * settings.batch / ms / 1e6
        rows.append(
            Row(
                network=candidate.network,
                form=candidate.form,
                runtime=candidate.runtime,
                family=NETWORKS[candidate.network].family,
                ms=ms,
                spread=np.subtract(*np.percentile(record, (75, 25))) / ms,
                ratio=ms / medians[baseline],
                macs=candidate.macs,
                gflops=gflops,
                product_share=gflops / product_gflops,
                copy_share=candidate.traffic / ms / 1e6 / copy_gbytes,
                params=candidate.params,
                top1=top1[candidate.network][0],
                source=top1[candidate.network][1],
                difference=candidate.difference,
                times=record,
            )
        )
    return Report(settings, environment, product_gflops, copy_gbytes, rows, left_out)


def _model_name(network: str, form: str) -> str:
    return f'{network}-{form}' if form else network


def _all_models() -> Iterator[Tuple[str, str, str]]:
    """Yield the names of each network, form and model."""
    for name, network in NETWORKS.items():
        for form in network.forms or ('',):
            yield name, form, _model_name(name, form)


def _select(settings: Settings) -> Dict[str, List[str]]:
    """Check all names and return the forms to measure of each network."""
    unknown = set(settings.models) - {*NETWORKS, *model_names()}
    if unknown:
        raise InputError(
            f'There is no model {min(unknown)}: choose from '
            f'{", ".join(NETWORKS)}, or their forms {", ".join(model_names())}.'
        )
    selected: Dict[str, List[str]] = {}
    names = []
    for network, form, model in _all_models():
        if not settings.models or {network, model} & set(settings.models):
            selected.setdefault(network, []).append(form)
            names += [f'{model}:{runtime}' for runtime in settings.runtimes]
    if settings.baseline not in (None, *names):
        raise InputError(
            f'The baseline {settings.baseline} is not measured: choose from '
            f'{", ".join(names)}.'
        )
    return selected


@contextmanager
def pinned(threads: int) -> Iterator[str]:
    """Set PyTorch's threads and pin the process to as many cores, if possible.

    Yields:
        str: A description of the cores.
    """
    can_pin = hasattr(os, 'sched_setaffinity')
    allowed = os.sched_getaffinity(0) if can_pin else range(os.cpu_count() or 1)
    if threads > len(allowed):
        raise InputError(
            f'{threads} threads need as many cores, but this process may use only '
            f'{len(allowed)}.'
        )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    cores = sorted(allowed)[:threads]
    if can_pin:
        os.sched_setaffinity(0, cores)
    try:
        names = ', '.join(map(str, cores))
        yield f'pinned to {names}' if can_pin else 'not pinned, not supported here'
    finally:
        if can_pin:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads_before)


def _installed(runtimes: Iterable[str], left_out: Dict[str, List[str]]) -> List[str]:
    """Return the runtimes whose packages are installed."""
    found = []
    for runtime in runtimes:
        if all(find_spec(package) for package in RUNTIMES[runtime].packages):
            found.append(runtime)
        else:
            packages = ' or '.join(RUNTIMES[runtime].packages)
            reason = f"{packages} is missing: pip install 'mmcdnv2[benchmark]'"
            left_out[reason] = [runtime]
    return found


def _prepare(
    name: str,
    forms: List[str],
    runtimes: List[str],
    images: Tensor,
    settings: Settings,
    root: Path,
    left_out: Dict[str, List[str]],
) -> Iterator[_Candidate]:
    """Prepare a network in all of its forms and in all runtimes.

    Yields:
        _Candidate: Models that run and return the right output. Others are added
        to ``left_out``.
    """
    network = NETWORKS[name]
    try:
        first = build_network(network, settings.part, root, settings.seed)
    except ImportError as error:
        reason = f"{error.name} is missing: pip install 'mmcdnv2[benchmark]'"
        left_out.setdefault(reason, []).append(name)
        return
    with ops.use_kernels(False):
        expected = as_tensors(first(images))
        modules = _forms_of(network, first)
        deployed = modules.get('fallback', first)
        cost = dict(
            macs=count_macs(deployed, images[:1]), params=count_params(deployed)
        )
    moved = cost['params'] + images.numel() + sum(out.numel() for out in expected)
    for form in forms:
        job = Job(modules[form], images, settings.threads, form == 'condensed')
        for runtime in runtimes:
            model = f'{_model_name(name, form)}:{runtime}'
            try:
                call = _get_ready(job, runtime)
                difference = _difference(expected, as_tensors(call()))
                if not difference <= TOLERANCE:
                    raise RuntimeError("its output differs from the network's")
            # Runtimes and compilers may raise anything; the others still run.
            except Exception as error:
                reason = str(error).strip() or type(error).__name__
                left_out.setdefault(reason.splitlines()[0], []).append(model)
            else:
                yield _Candidate(
                    name, form, runtime, call, difference, traffic=4 * moved, **cost
                )


def _forms_of(network: Network, first: nn.Module) -> Dict[str, nn.Module]:
    """Return the forms of a network, beginning with the given one."""
    if not network.forms:
        return {'': first}
    condensed = copy.deepcopy(first)
    condense_layers(condensed)
    modules = dict(sparse=first, condensed=condensed, fallback=condensed)
    if 'authors' in network.forms:
        modules['authors'] = condensed_as_the_authors(condensed)
    return modules


def _get_ready(job: Job, runtime: str) -> Call:
    if job.kernels and not RUNTIMES[runtime].has_kernels:
        raise RuntimeError('the native kernels do not run there, see its fallback')
    if job.kernels and not ops.load():
        raise RuntimeError(f'the native kernels cannot be used: {ops.describe()}')
    return RUNTIMES[runtime].prepare(job)


def _difference(expected: List[Tensor], outputs: List[Tensor]) -> float:
    """Return the largest difference, relative to the output's largest value."""
    if len(expected) != len(outputs):
        return float('inf')
    return max(
        ((wanted - given).abs().max() / wanted.abs().max()).item()
        for wanted, given in zip(expected, outputs)
    )


def _find_baseline(
    candidates: List[_Candidate],
    baseline: Optional[str],
    left_out: Dict[str, List[str]],
) -> int:
    """Return the index of the baseline among the candidates."""
    names = [candidate.name for candidate in candidates]
    if names and baseline in (None, *names):
        return names.index(baseline or names[0])
    reasons = '; '.join(f'{", ".join(who)}: {why}' for why, who in left_out.items())
    raise InputError(f'{baseline or "None of the models"} could be run: {reasons}.')


def matrix_products() -> Dict[int, Call]:
    """Return products of square matrices to time, by matrix size."""
    products: Dict[int, Call] = {}
    for side in MATRICES:
        a, b = torch.rand(2, side, side)
        products[side] = partial(torch.mm, a, b, out=torch.empty(side, side))
    return products


def best_product_gflops(sides: Iterable[int], times: Iterable[float]) -> float:
    """Return the rate of the fastest matrix product, two operations per MAC.

    Args:
        sides (Iterable[int]): Matrix sizes, as in :func:`matrix_products`.
        times (Iterable[float]): Milliseconds of each product.

    Returns:
        float: 10^9 operations per second.
    """
    return max(2 * side**3 / ms / 1e6 for side, ms in zip(sides, times))


def _copying() -> Call:
    """Return a function that copies memory, to time."""
    # Ones, because untouched zeros would share one page of memory.
    source, target = torch.ones(2, COPIED)
    return partial(target.copy_, source)


def environment_of(cores: str, runtimes: List[str]) -> Dict[str, str]:
    """Return the processor, the cores, the kernels and package versions."""
    packages = {'torch': version('torch')}
    for runtime in runtimes:
        for package in RUNTIMES[runtime].packages:
            packages[package] = version(package)
    return dict(
        processor=processor_name(), cores=cores, kernels=ops.describe(), **packages
    )
