"""What the command-line tools share."""

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace

import pytest
from conftest import ROOT
from rich.console import Console

from mmcdnv2.cli import (
    add_engine_arguments,
    add_input_shape_argument,
    add_runner_arguments,
    apply_runner_arguments,
    command_line,
    engine_options,
    report_console,
    track_progress,
)
from mmcdnv2.errors import (
    ChangedFileError,
    ConfigError,
    DataError,
    InputError,
    UntrustedError,
)


@pytest.fixture
def run():
    """Run a tool with these options that raises an error."""

    def run_tool(error, **options):
        @command_line(lambda: Namespace(error=error, **options))
        def main(args):
            """Fail."""
            if args.error:
                raise args.error

        assert main.__doc__ == 'Fail.'
        main()

    return run_tool


def test_nothing_is_printed_before_a_tool_begins():
    """Of optional packages that MMDetection and MMPreTrain do not find."""
    code = """
import torch
from mmcdnv2.cli import command_line
import mmdet.datasets, mmdet.evaluation, mmpretrain.datasets
command_line(dict)(lambda args: torch.meshgrid(torch.ones(2), torch.ones(2)))()
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ('', '')


def test_only_input_errors_become_one_sentence(run):
    run(None)
    with pytest.raises(SystemExit, match=r'^error: Do this instead\.$'):
        run(InputError('Do this instead.'))
    with pytest.raises(ValueError, match='a bug'):
        run(ValueError('a bug'))


@pytest.mark.parametrize(
    ('error', 'option', 'hint'),
    [
        (UntrustedError, 'trust_checkpoint', 'On the command line, that is'),
        (ChangedFileError, 'verify', 'On the command line, that is --no-verify'),
        (ConfigError, 'cfg_options', 'Set keys of the config with --cfg-options'),
        (DataError, 'skip_data_check', 'To go on all the same, --skip-data-check'),
    ],
)
def test_errors_name_the_options_that_a_tool_has(run, error, option, hint):
    with pytest.raises(SystemExit, match=rf'^error: Do this\. {hint}'):
        run(error('Do this.'), **{option: None})
    with pytest.raises(SystemExit, match=r'^error: Do this\.$'):
        run(error('Do this.'), other=None)


@pytest.mark.parametrize('spelling', ['--local-rank', '--local_rank'])
def test_runner_arguments(monkeypatch, spelling):
    parser = ArgumentParser()
    add_runner_arguments(parser)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    args = parser.parse_args([f'{spelling}=3', '--launcher', 'pytorch'])
    options = dict(
        work_dir=None, launcher='pytorch', trust_checkpoint=False, skip_data_check=False
    )
    assert apply_runner_arguments(args) == options
    assert os.environ['LOCAL_RANK'] == '3'
    # The launcher that sets the variable itself knows best.
    monkeypatch.setenv('LOCAL_RANK', '1')
    args = parser.parse_args(
        ['--work-dir', 'here', '--trust-checkpoint', '--skip-data-check']
    )
    options = dict(
        work_dir='here', launcher='none', trust_checkpoint=True, skip_data_check=True
    )
    assert apply_runner_arguments(args) == options
    assert os.environ['LOCAL_RANK'] == '1'


def test_input_shape_argument():
    for default in (None, (224, 224)):
        parser = ArgumentParser()
        add_input_shape_argument(parser, 'size of the input', default)
        assert parser.parse_args([]).input_shape == default
        assert parser.parse_args(['--input-shape', '32', '64']).input_shape == [32, 64]


def test_engine_options():
    parser = ArgumentParser()
    add_engine_arguments(parser)
    plain = parser.parse_args([])
    assert engine_options(plain, True) == dict(engine='onnxruntime', threads=None)
    assert engine_options(plain, False) == {}
    args = parser.parse_args(['--engine', 'openvino', '--threads', '2'])
    assert engine_options(args, True) == dict(engine='openvino', threads=2)
    assert plain.verify and not parser.parse_args(['--no-verify']).verify
    for wrong in (args, parser.parse_args(['--no-verify'])):
        with pytest.raises(InputError, match='a checkpoint runs in PyTorch'):
            engine_options(wrong, False)
    for exported in (True, False):
        with pytest.raises(InputError, match='--threads must be 1 or more, got 0'):
            engine_options(parser.parse_args(['--threads', '0']), exported)


def test_consoles(monkeypatch, capsys):
    monkeypatch.delenv('COLUMNS', raising=False)
    monkeypatch.delenv('FORCE_COLOR', raising=False)
    assert report_console(160).width == 160
    # The progress is not mixed into what the tool reports.
    assert list(track_progress([1, 2], 'Counting')) == [1, 2]
    assert capsys.readouterr().out == ''
    monkeypatch.setenv('COLUMNS', '90')
    assert report_console(160).width == Console().width == 90
