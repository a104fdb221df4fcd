"""What the command-line tools share: options, errors and consoles."""

import functools
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, TypeVar

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import track

from .errors import (
    ChangedFileError,
    ConfigError,
    DataError,
    InputError,
    UntrustedError,
)
from .export.engines import ENGINES

T = TypeVar('T')

# What is added to errors of tools that have the option; the library names none.
_HINTS = (
    (
        UntrustedError,
        'trust_checkpoint',
        'On the command line, that is --trust-checkpoint.',
    ),
    (
        ChangedFileError,
        'verify',
        'On the command line, that is --no-verify.',
    ),
    (
        ConfigError,
        'cfg_options',
        'Set keys of the config with --cfg-options KEY=VALUE ...',
    ),
    (
        DataError,
        'skip_data_check',
        'To go on all the same, --skip-data-check.',
    ),
)


def command_line(
    parse_args: Callable[[], Namespace],
) -> Callable[[Callable[[Namespace], None]], Callable[[], None]]:
    """Make a tool's main function, which ends with a sentence, not a traceback.

    Args:
        parse_args (Callable): Parses the tool's command line.

    Returns:
        Callable: A decorator for a function of the parsed options. What it
        returns takes no arguments and turns an :class:`InputError` into an
        exit status of 1, and tells which of the tool's options would help.
    """

    def decorate(main: Callable[[Namespace], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def wrapper() -> None:
            args = parse_args()
            # MMDetection calls it in the old way.
            warnings.filterwarnings('ignore', 'torch.meshgrid: in an upcoming release')
            try:
                main(args)
            except InputError as error:
                hints = [
                    hint
                    for kind, option, hint in _HINTS
                    if isinstance(error, kind) and option in args
                ]
                sys.exit(' '.join(['error:', str(error), *hints]))

        return wrapper

    return decorate


def add_trust_argument(parser: ArgumentParser) -> None:
    """Add the option by which the user vouches for a checkpoint.

    Args:
        parser (ArgumentParser): Extended in place; its ``trust_checkpoint`` is
            what :func:`~mmcdnv2.checkpoint.load_checkpoint` takes as ``trust``.
    """
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load a checkpoint that holds more than tensors; it can run code',
    )


def add_engine_arguments(parser: ArgumentParser) -> None:
    """Add the options that choose what runs an exported file, and how.

    Args:
        parser (ArgumentParser): Extended in place. :func:`engine_options` reads them.
    """
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        help='what runs an exported .onnx file (default: onnxruntime)',
    )
    parser.add_argument(
        '--threads', type=int, help="its threads (default: the engine's)"
    )
    parser.add_argument(
        '--no-verify',
        dest='verify',
        action='store_false',
        help='accept an exported file that was changed since then',
    )


def engine_options(args: Namespace, is_exported: bool) -> Dict[str, Any]:
    """Read the options of :func:`add_engine_arguments`.

    Args:
        args (Namespace): The tool's options.
        is_exported (bool): Whether the model is an exported file.

    Returns:
        dict: ``engine`` and ``threads`` if it is, else empty. ``args.verify`` is the
        tool's to pass on.

    Raises:
        InputError: If they are given for a model that runs in PyTorch.
    """
    if args.threads is not None and args.threads < 1:
        raise InputError(f'--threads must be 1 or more, got {args.threads}.')
    if is_exported:
        return dict(engine=args.engine or ENGINES[0], threads=args.threads)
    if args.engine or args.threads or not args.verify:
        raise InputError(
            '--engine, --threads and --no-verify are for exported .onnx files; a '
            'checkpoint runs in PyTorch.'
        )
    return {}


def add_cfg_options_argument(parser: ArgumentParser) -> None:
    """Add the option for settings of the config.

    Args:
        parser (ArgumentParser): Extended in place; its ``cfg_options`` is for
            :func:`~mmcdnv2.config.load_config`.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='config settings to override, key=value ...',
    )


def add_input_shape_argument(
    parser: ArgumentParser, help: str, default: Optional[Tuple[int, int]] = None
) -> None:
    """Add the option for the size of a network's input.

    Args:
        parser (ArgumentParser): Extended in place; its ``input_shape`` is a
            list of height and width, or the default.
        help (str): What the size is of, and its default, in words.
        default (tuple[int], optional): Height and width. Defaults to None.
    """
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs=2,
        default=default,
        metavar=('HEIGHT', 'WIDTH'),
        help=help,
    )


def add_runner_arguments(parser: ArgumentParser) -> None:
    """Add the options that training and testing have in common.

    Args:
        parser (ArgumentParser): Extended in place. ``cfg_options`` is for
            :func:`~mmcdnv2.config.load_config`, the others are for
            :func:`apply_runner_arguments`.
    """
    parser.add_argument(
        '--work-dir', help='folder for logs and results (default: by config name)'
    )
    add_trust_argument(parser)
    add_cfg_options_argument(parser)
    parser.add_argument(
        '--skip-data-check',
        action='store_true',
        help='do not look through annotations and images before the start',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0)


def apply_runner_arguments(args: Namespace) -> Dict[str, Any]:
    """Set the environment as a launcher's options ask for.

    Args:
        args (Namespace): What :func:`add_runner_arguments` lets the user say.

    Returns:
        dict: The other options, as keyword arguments of
        :func:`~mmcdnv2.engine.build_runner`.
    """
    # MMEngine looks for it there, whichever way the launcher passes it.
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return dict(
        work_dir=args.work_dir,
        launcher=args.launcher,
        trust_checkpoint=args.trust_checkpoint,
        skip_data_check=args.skip_data_check,
    )


def report_console(width: int, soft_wrap: bool = False) -> Console:
    """Make a console for wide tables.

    Args:
        width (int): Width in characters where nothing else decides: in a file
            or a pipe, where no column needs to be squeezed.
        soft_wrap (bool): Whether long lines are left as they are. Defaults to
            False.

    Returns:
        Console: It writes to the standard output.
    """
    console = Console(soft_wrap=soft_wrap)
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = width
    return console


def track_progress(items: Iterable[T], description: str) -> Iterable[T]:
    """Show the progress through items, but not in the tool's output.

    Args:
        items (Iterable): What is worked on.
        description (str): What is done.

    Returns:
        Iterable: The items.
    """
    return track(items, description, console=Console(stderr=True), transient=True)
