"""Bad files are refused in a sentence, run no code and leave everything as it is."""

import itertools
import pickle
import sys
from functools import partial
from pathlib import Path

import bad_files
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from reference import official_state_dict

from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import check_finite, load_checkpoint, load_weights, weights_of
from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.errors import InputError

sys.path.insert(0, str(ROOT / 'runtime'))
from mmcdnv2_runtime.errors import ModelError  # noqa: E402


class Table:
    """How many files of each kind were refused, and how the first was not."""

    def __init__(self):
        self.rows = {}

    def add(self, kind, case, problem, harmless=False):
        row = self.rows.setdefault(kind, [0, 0, 0, ''])
        row[0] += 1
        row[1] += not problem and not harmless
        row[2] += not problem and harmless
        row[3] = row[3] or (problem and f'{case}: {problem}')

    def show(self):
        print(
            f'\n{"kind":44} {"files":>5} {"refused":>7} {"as good":>7}  first failure'
        )
        total = [0, 0, 0]
        for kind, row in self.rows.items():
            total = [a + b for a, b in zip(total, row)]
            print(f'{kind:44} {row[0]:5} {row[1]:7} {row[2]:7}  {row[3] or "none"}')
        print(f'{"all":44} {total[0]:5} {total[1]:7} {total[2]:7}')

    def check(self):
        assert self.rows
        assert {kind: row[3] for kind, row in self.rows.items() if row[3]} == {}


@pytest.fixture(scope='module')
def table():
    table = Table()
    yield table
    table.show()


@pytest.fixture(scope='module')
def good(checkpoints, tiny_configs, tmp_path_factory):
    """Checkpoints that can be used: sparse, of a detector, and condensed."""
    contents = {
        name: torch.load(path, weights_only=True) for name, path in checkpoints.items()
    }
    report = condense_checkpoint(
        tiny_configs['classifier'],
        checkpoints['classifier'],
        tmp_path_factory.mktemp('condensed'),
        input_shape=(48, 48),
    )
    contents['condensed'] = torch.load(report.checkpoint, weights_only=True)
    contents['condensed_config'] = str(report.config)
    return contents


def files_of(folder):
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in folder.rglob('*')
    }


def problem_of(use, folder):
    """Say what is wrong with how a file is refused, or nothing.

    Args:
        use (Callable): Uses it; raises or returns an error's sentence.
        folder (Path): In which nothing may change.
    """
    before = files_of(folder)
    try:
        said = use()
    except (InputError, ModelError) as error:
        said = f'error: {error}'
    except Exception as error:
        return f'{type(error).__name__}: {error!s:.200}'
    if not isinstance(said, str) or not said.startswith('error: '):
        return f'was taken, {said!r:.100}'
    if '\n' in said.strip() or len(said) > 900:
        return f'many words: {said:.200}'
    if files_of(folder) != before:
        changed = set(files_of(folder).items()) ^ set(before.items())
        return f'changed {sorted({name for name, _ in changed})}'
    return ''


def same(first, second):
    """Tell whether two state dicts are equal to the last bit."""
    return list(first) == list(second) and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture
def reading(good, tiny_configs, tmp_path):
    """Read a checkpoint as all tools do, in a folder with an old output."""
    models = {
        'classifier': build_model(Config.fromfile(tiny_configs['classifier'])),
        'condensed': build_model(Config.fromfile(good['condensed_config'])),
    }
    (tmp_path / 'old.pth').write_bytes(b'an old output')

    def read(path, form='classifier'):
        content = load_checkpoint(path)
        model = models[form]
        load_weights(model, weights_of(content), path)
        check_finite(model.state_dict(), path)
        return content

    return read


def taken(read, path, found):
    found.append(read(path))


def try_bytes(table, kind, cases, read, good_weights, folder, mark=None):
    """Read files of given bytes; one that is as good as whole must give the same."""
    for case, content in cases:
        path = folder / 'case.pth'
        path.write_bytes(content)
        found = []
        problem = problem_of(partial(taken, read, path, found), folder)
        harmless = bool(found) and same(found[0]['state_dict'], good_weights)
        if harmless:
            problem = ''
        if mark is not None and mark.exists():
            problem = 'ran code'
            mark.unlink()
        table.add(kind, case, problem, harmless)


def try_contents(table, kind, cases, read, folder, form='classifier'):
    for case, content in cases:
        path = folder / 'case.pth'
        torch.save(content, path)
        table.add(kind, case, problem_of(partial(read, path, form), folder))


def checkpoint_cases(table, good, read, folder, sample):
    whole = bad_files.packed(good['classifier'])
    weights = good['classifier']['state_dict']
    mark = folder.parent / f'{folder.name}.mark'

    def some(cases, count):
        return itertools.islice(cases, 0, None, count if sample else 1)

    path = folder / 'case.pth'
    path.write_bytes(whole)
    assert same(read(path)['state_dict'], weights)
    old = bad_files.packed(good['classifier'], _use_new_zipfile_serialization=False)
    path.write_bytes(old)
    assert same(read(path)['state_dict'], weights)

    run = (table, read, weights, folder)
    cases = some(bad_files.truncated(whole), 10)
    try_bytes(table, 'checkpoint, truncated', cases, *run[1:])
    cases = some(bad_files.truncated(old), 10)
    try_bytes(table, 'checkpoint of the old format, truncated', cases, *run[1:])
    cases = some(bad_files.flipped_records(whole), 5)
    try_bytes(table, 'checkpoint, a bit flipped', cases, *run[1:])
    cases = bad_files.with_code(good['classifier'], str(mark))
    try_bytes(table, 'checkpoint with code', cases, *run[1:], mark)
    cases = bad_files.strange_contents(good['classifier'], good['detector'])
    try_contents(table, 'checkpoint, strange', cases, read, folder)
    cases = some(bad_files.strange_indices(good['condensed']), 7)
    try_contents(table, 'condensed checkpoint', cases, read, folder, 'condensed')
    cases = some(bad_files.strange_indices(good['condensed']), 7)
    try_contents(table, 'condensed checkpoint, for sparse', cases, read, folder)
    cases = bad_files.unfinished_contents(good['classifier'])
    try_contents(table, 'sparse for condensed', cases, read, folder, 'condensed')


def test_checkpoints(table, good, reading, tmp_path):
    checkpoint_cases(table, good, reading, tmp_path, sample=True)
    table.check()


@pytest.mark.long
def test_all_of_the_checkpoints(table, good, reading, tmp_path):
    checkpoint_cases(table, good, reading, tmp_path, sample=False)
    table.check()


def test_the_code_would_run(good, tmp_path):
    """What must not run does run where nobody looks."""
    mark = tmp_path / 'mark'
    for case, content in bad_files.with_code(good['classifier'], str(mark)):
        if case.startswith('opcodes'):
            continue
        path = tmp_path / 'case.pth'
        path.write_bytes(content)
        if 'pickle' in case:
            pickle.loads(content)
        elif case == 'script':
            torch.jit.load(path)
        else:
            torch.load(path, weights_only=False)
        assert mark.exists(), case
        mark.unlink()
    pickle.loads(bad_files._escape(str(mark)))
    assert mark.exists()


# What an interpreter tells of before it does it.
EVENTS = ('os.', 'subprocess.', 'shutil.', 'socket.', 'ctypes.', 'exec', 'compile')
heard = []
listening = []


def listen(event, arguments):
    if not listening:
        return
    writes = (
        event == 'open' and isinstance(arguments[1], str) and 'r' not in arguments[1]
    )
    # A text's encoding may be one that Python has not imported yet.
    # It also lists their folder if that has changed.
    is_encoding = event in ('exec', 'os.listdir') and '/encodings' in str(arguments)
    if writes or (event.startswith(EVENTS) and not is_encoding):
        heard.append((event, str(arguments)[:200]))


def altered_cases(table, good, folder, count):
    buffer = HistoryBuffer()
    buffer.update(2.0)
    weights = dict(itertools.islice(good['classifier']['state_dict'].items(), 8))
    content = dict(
        good['classifier'],
        state_dict=weights,
        message_hub=dict(log_scalars=dict(loss=buffer)),
    )
    path = folder / 'case.pth'
    path.write_bytes(bad_files.packed(content))
    load_checkpoint(path)
    sys.addaudithook(listen)
    for case, altered in bad_files.altered_pickles(path.read_bytes(), count):
        path.write_bytes(altered)
        problem = ''
        harmless = False
        listening.append(True)
        try:
            load_checkpoint(path)
            harmless = True
        except InputError:
            pass
        except Exception as error:
            problem = f'{type(error).__name__}: {error!s:.200}'
        finally:
            listening.clear()
        if heard:
            problem = f'did {heard[0]}'
            heard.clear()
        table.add('checkpoint, its pickle altered', case, problem, harmless)


def test_altered_pickles(table, good, tmp_path):
    altered_cases(table, good, tmp_path, 100)
    table.check()


@pytest.mark.long
def test_all_of_the_altered_pickles(table, good, tmp_path):
    altered_cases(table, good, tmp_path, 5000)
    table.check()


@pytest.fixture
def use(run, tiny_configs, good, digits, tmp_path, capsys):
    """Use a checkpoint in a tool; return the sentence, or None if it was taken."""
    config = tiny_configs['classifier']
    out = tmp_path / 'out'
    out.mkdir()
    # What must stay as it is.
    old = ['old.onnx', 'old.pth', 'classifier_condensed.py', 'classifier_condensed.pth']
    for name in old:
        (out / name).write_bytes(b'an old output')
    work = ('--work-dir', tmp_path / 'work')
    last = tmp_path / 'last'
    last.mkdir()
    cfg = Config.fromfile(config)
    pretrained = dict(type='Pretrained', prefix='backbone.', checkpoint='')
    image = next((digits / 'val').iterdir())

    def tool(script, path):
        if script == 'condense':
            return run('condense.py', config, path, out)
        if script == 'export':
            return run('export.py', config, path, out / 'old.onnx')
        if script == 'test':
            return run('test.py', config, path, *work)
        if script == 'predict':
            options = ('--out', out, '--json', out / 'old.pth')
            return run('predict.py', image, config, path, *options)
        if script == 'convert':
            return run('model_converters/official_to_mmcdnv2.py', path, out / 'old.pth')
        if script == 'load_from':
            return run('train.py', config, *work, '--cfg-options', f'load_from={path}')
        if script == 'resume':
            return run('train.py', config, *work, '--resume', path)
        if script == 'resume auto':
            (last / 'last_checkpoint').write_text(str(path))
            return run('train.py', config, '--work-dir', last, '--resume')
        cfg.model.backbone.init_cfg = dict(pretrained, checkpoint=str(path))
        # A training takes seconds to come to that.
        try:
            build_model(cfg).init_weights()
        except InputError as error:
            return f'error: {error}'

    def use_it(script, path):
        before = files_of(out)
        said = tool(script, path)
        capsys.readouterr()
        assert isinstance(said, str) and said.startswith('error: '), (script, said)
        assert '\n' not in said and len(said) < 900, said
        assert files_of(out) == before
        assert not list(tmp_path.rglob('*.pth*/')) and not list(tmp_path.rglob('.*'))
        assert not list((tmp_path / 'work').rglob('*.pth'))
        return said

    return use_it


TOOLS = ['condense', 'export', 'test', 'predict', 'convert', 'load_from', 'resume']
TOOLS += ['resume auto', 'pretrained']


@pytest.mark.parametrize(
    'names', ['half flipped code mask', pytest.param('', marks=pytest.mark.long)]
)
@pytest.mark.parametrize('script', TOOLS)
def test_tools_refuse_them(use, table, good, tmp_path, script, names):
    whole = good['classifier']
    if script == 'convert':
        whole = dict(state_dict=official_state_dict('a'), epoch=1)
    # As a training leaves it, so that nothing else is wrong with it.
    if script.startswith('resume'):
        meta = dict(whole['meta'], iter=1, epoch=1)
        whole = dict(whole, meta=meta, message_hub={}, optimizer={})
    weights = whole['state_dict']
    some = next(name for name in weights if name.endswith('weight'))
    mark, path = tmp_path / 'mark', tmp_path / 'bad.pth'
    content = bad_files.packed(whole)
    place = content.index(weights[some].numpy().tobytes()[:64])
    _, flipped = next(bad_files.flipped(content, [(place, 3)]))
    strange = dict(bad_files.strange_contents(good['classifier'], good['detector']))
    other = strange['of another kind']
    if script == 'pretrained':
        # Its backbone is nearly the same; what it is called is not.
        other = strange['another prefix']
    cases = {
        'half': content[: len(content) // 2],
        'flipped': flipped,
        'code': bad_files.packed(dict(whole, extra=bad_files.Writer(mark))),
        'escape': bad_files._archive(bad_files._escape(str(mark))),
        'script': bad_files._script(str(mark)),
        'NaN': bad_files.packed(
            dict(whole, state_dict={**weights, some: weights[some] * float('nan')})
        ),
        'a list': bad_files.packed(dict(whole, state_dict=list(weights.items()))),
    }
    if script != 'load_from':
        # Its backbone is a good start for another network.
        cases['other'] = bad_files.packed(other)
    if script != 'convert':
        kept = next(name for name in weights if name.endswith('.mask'))
        halves = {**weights, kept: weights[kept] * 0.5}
        cases['mask'] = bad_files.packed(dict(whole, state_dict=halves))
    for case, content in cases.items():
        if names and case not in names:
            continue
        if script == 'resume auto' and case in ('half', 'flipped'):
            # An earlier one is taken, or none: see engine/test_resume.py.
            continue
        path.write_bytes(content)
        said = use(script, path)
        table.add(f'checkpoint, in {script}', case, '')
        assert not mark.exists(), case
        expected = dict(
            half='damaged', flipped='damaged', code='run code', mask='neither 0 nor 1'
        )
        assert expected.get(case, '') in said, (case, said)


def test_resuming_runs_no_config(use, good, tmp_path):
    mark, path = tmp_path / 'mark', tmp_path / 'bad.pth'
    meta = dict(iter=1, epoch=1, config=f'open({str(mark)!r}, "w")')
    torch.save(dict(good['classifier'], meta=meta, message_hub={}), path)
    for script in ('resume', 'resume auto'):
        assert 'holds a config, which is code' in use(script, path)
    assert not mark.exists()


def test_a_training_refuses_bad_initial_weights(run, tiny_configs, tmp_path):
    path = tmp_path / 'bad.pth'
    path.write_bytes(bad_files.packed(dict(extra=bad_files.Writer(tmp_path / 'mark'))))
    cfg = Config.fromfile(tiny_configs['classifier'])
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    cfg.dump(tmp_path / 'config.py')
    said = run('train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work')
    assert said.startswith(f'error: {path} holds more than tensors')
    assert 'save its state dict alone' in said and 'trust' not in said
    assert not (tmp_path / 'mark').exists()


@pytest.fixture(scope='module')
def exported_files(tmp_path_factory):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from onnx_files import classifier, detector

    folder = tmp_path_factory.mktemp('exported')
    steps = [dict(op='pad', size=[48, 64], value=[0, 0, 0])]
    return dict(
        classifier=classifier(folder / 'classifier.onnx', preprocess=steps),
        detector=detector(folder / 'detector.onnx', preprocess=steps),
    )


def exported_cases(table, files, folder, sample):
    from mmcdnv2_runtime import Classifier, Detector

    from mmcdnv2.inference import open_exported_file

    def rest(cases):
        return itertools.islice(cases, 0, None, 10 if sample else 1)

    path = folder / 'case.onnx'
    (folder / 'old.json').write_text('an old output')
    readers = dict(
        package=lambda: open_exported_file(path),
        runtime=lambda: dict(classifier=Classifier, detector=Detector)[name](path),
    )
    for name, file in files.items():
        content = Path(file).read_bytes()
        for reader, read in readers.items():
            path.write_bytes(content)
            read()
            for kind, cases in (
                ('truncated', rest(bad_files.truncated(content))),
                ('a bit flipped', rest(bad_files.flipped_anywhere(content))),
                ('strange', bad_files.strange_models(content)),
            ):
                for case, changed in cases:
                    path.write_bytes(changed)
                    problem = problem_of(read, folder)
                    table.add(f'{name}, {kind}, {reader}', case, problem)


def test_exported_files(table, exported_files, tmp_path):
    exported_cases(table, exported_files, tmp_path, sample=True)
    table.check()


@pytest.mark.long
def test_all_of_the_exported_files(table, exported_files, tmp_path):
    exported_cases(table, exported_files, tmp_path, sample=False)
    table.check()


@pytest.mark.parametrize('script', ['test', 'predict', 'mmcdnv2-run'])
def test_tools_refuse_exported_files(
    run, tiny_configs, exported_files, digits, tmp_path, capsys, script
):
    from mmcdnv2_runtime.cli import main

    content = Path(exported_files['classifier']).read_bytes()
    strange = dict(bad_files.strange_models(content))
    cases = {
        'half': content[: len(content) // 2],
        'flipped': next(bad_files.flipped(content, [(len(content) // 2, 3)]))[1],
        **{case: strange[case] for case in strange if 'weights in' in case},
        **{case: strange[case] for case in ('raw', 'a pickle', 'no metadata')},
        'folder': None,
    }
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'old.json').write_text('an old output')
    before = files_of(out)
    image = str(next((digits / 'val').iterdir()))
    for case, changed in cases.items():
        path = tmp_path / f'{case.replace("/", "_")}.onnx'
        path.mkdir() if changed is None else path.write_bytes(changed)
        if script == 'test':
            said = run('test.py', tiny_configs['classifier'], path, '--work-dir', out)
        elif script == 'predict':
            options = ('--out', out, '--json', out / 'old.json')
            said = run('predict.py', image, path, *options)
        else:
            with pytest.raises(SystemExit) as ended:
                main([image, str(path), '--json', str(out / 'old.json')])
            said = ended.value.code
        assert isinstance(said, str) and said.startswith('error: '), (case, said)
        assert '\n' not in said and len(said) < 900
        assert 'Traceback' not in capsys.readouterr().err
        assert files_of(out) == before, case
