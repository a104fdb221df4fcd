"""The tools on exported files: test and predict."""

import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from onnx_files import classifier, detector  # noqa: E402


@pytest.fixture(autouse=True)
def plain_output(monkeypatch):
    monkeypatch.delenv('COLUMNS', raising=False)
    monkeypatch.delenv('FORCE_COLOR', raising=False)


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_test_gives_what_pytorch_gives(run, exported, tmp_path, name):
    model = exported[name]
    predictions, metrics = [], []
    for weights in (model.checkpoint, model.file):
        folder = tmp_path / Path(weights).suffix
        out = folder / 'out.pkl'
        arguments = (model.config, weights, '--work-dir', folder, '--out', out)
        drawn = () if weights == model.checkpoint else ('--show-dir', folder / 'shown')
        assert run('test.py', *arguments, *drawn) == 0
        predictions.append(pickle.loads(out.read_bytes()))
        found = json.loads(max(folder.glob('*/*.json')).read_text())
        metrics.append({key: found[key] for key in found if 'time' not in key})
    assert len(predictions[0]) == len(predictions[1]) > 2
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)
    for expected, actual in zip(*predictions):
        if name == 'classifier':
            expected, actual = expected['pred_score'], actual['pred_score']
        else:
            expected, actual = expected['pred_instances'], actual['pred_instances']
            boxes = actual['bboxes'], expected['bboxes']
            torch.testing.assert_close(*boxes, atol=1e-2, rtol=0)
            expected, actual = expected['scores'], actual['scores']
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    # MMDetection draws into a folder below the work dir, unless it is a whole path.
    assert list((folder / 'shown').iterdir())


@pytest.fixture
def places(tiny_configs, checkpoints, digits, tmp_path):
    folder = tmp_path / 'images'
    for name in ('0', '1'):
        (folder / name).mkdir(parents=True)
        shutil.copy(digits / 'val' / f'00000{name}.png', folder / name / 'x.png')
    broken = folder / 'broken.png'
    broken.write_bytes(b'no image')
    digit_names = tuple('0123456789')
    changed = Path(detector(tmp_path / 'changed.onnx'))
    content = bytearray(changed.read_bytes())
    content[300] ^= 1
    changed.write_bytes(content)
    return SimpleNamespace(
        images=folder,
        broken=broken,
        out=tmp_path / 'out',
        config=tiny_configs['detector'],
        classifier_config=tiny_configs['classifier'],
        checkpoint=checkpoints['detector'],
        classifier_checkpoint=checkpoints['classifier'],
        file=detector(tmp_path / 'file.onnx', classes=digit_names),
        classifier_file=classifier(tmp_path / 'classifier.onnx', dynamic=()),
        raw=detector(tmp_path / 'raw.onnx', raw=True),
        few=detector(tmp_path / 'few.onnx'),
        other=detector(tmp_path / 'other.onnx', classes='abcdefghij'),
        features=detector(tmp_path / 'features.onnx', task='features'),
        changed=changed,
    )


def test_predict_with_an_exported_file(run, places, capsys):
    report = places.out / 'also.json'
    arguments = (f'{places.images}/*/x.png', places.file, '--threads', 1)
    options = ('--score-threshold', 0, '--out', places.out, '--json', report)
    assert run('predict.py', *arguments, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in lines]
    rows = [row for row in rows if row]
    assert len(rows) == 4
    boxes = {'2': '10.0 20.0 30.0 60.0', '0': '-5.0 0.0 50.0 48.0'}
    for i, row in enumerate(rows):
        assert row[3] == boxes[row[1]]
        # Each image has its name and time once, and the best first.
        name = str(places.images / str(i // 2) / 'x.png')
        assert row[0] == ('' if i % 2 else name)
        assert bool(row[4]) == (i % 2 == 0)
        if i % 2:
            assert 0 < float(row[2]) <= float(rows[i - 1][2]) < 1
    assert (places.out / 'x.png').exists() and (places.out / 'x_2.png').exists()
    content = json.loads(report.read_text())
    assert content == json.loads((places.out / 'predictions.json').read_text())
    assert content['model'] == ['file.onnx']
    assert (content['engine'], content['threads']) == ('onnxruntime', 1)


def test_predict_reports_what_cannot_be_read_and_goes_on(run, places, capsys):
    arguments = (places.broken, places.images / '0', places.images / 'none.png')
    found = run('predict.py', *arguments, places.file, '--out', places.out)
    assert found.splitlines() == [
        f'error: {places.broken}: It is not an image that can be read.',
        f'error: {places.images / "none.png"}: There is no such file.',
    ]
    assert str(places.images / '0' / 'x.png') in capsys.readouterr().out
    assert sorted(path.name for path in places.out.iterdir()) == [
        'predictions.json',
        'x.png',
    ]
    content = json.loads((places.out / 'predictions.json').read_text())
    assert ['error' in each for each in content['images']] == [True, False, True]


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_predict_with_a_checkpoint(run, places, capsys, name):
    detects = name == 'detector'
    model = (
        (places.config, places.checkpoint)
        if detects
        else (places.classifier_config, places.classifier_checkpoint)
    )
    options = ('--top', 2, '--score-threshold', 0, '--out', places.out)
    image = places.images / '0' / 'x.png'
    assert run('predict.py', image, *model, *options, '--device', 'cpu') == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if '│' in line]
    assert len(lines) == 2
    content = json.loads((places.out / 'predictions.json').read_text())
    assert content['classes'] == list('0123456789')
    assert content['task'] == dict(classifier='classification').get(name, 'detection')
    first, second = content['images'][0]['found']
    assert (
        f' {first["score"]:.3f} ' in lines[0] and f' {second["score"]:.3f} ' in lines[1]
    )
    assert (first['box'] is not None) == detects
    assert (places.out / 'x.png').exists()


@pytest.mark.parametrize(
    ('script', 'arguments', 'sentence'),
    [
        ('test.py', '{config} {classifier_file}', 'exported for classification; a'),
        ('test.py', '{classifier_config} {file}', 'exported for detection; a file'),
        ('test.py', '{config} {raw}', 'returns what its heads return'),
        ('test.py', '{config} {changed}', 'was changed since it was exported'),
        ('test.py', '{config} {out}.onnx', 'cannot be read: No such file'),
        ('test.py', '{config} {few}', 'has 3 classes and the data set 10'),
        ('test.py', '{config} {other}', "has 'a' as class 0 and the data set '0'"),
        ('test.py', '{config} {file} --threads 0', '--threads must be 1 or more'),
        ('test.py', '{config} {file} --launcher pytorch', 'no --launcher'),
        ('test.py', '{config} {checkpoint} --engine openvino', 'for exported .onnx'),
        ('predict.py', '{images}/0 {raw}', 'returns what its heads return'),
        ('predict.py', '{images}/0 {features}', 'exported for features; a file'),
        ('predict.py', '{images}/0 {changed}', 'was changed since it was exported'),
        ('predict.py', '{images}/0 {out}.onnx', 'cannot be read: No such file'),
        ('predict.py', '{images}/0 {config}', 'The model comes last'),
        ('predict.py', '{images}/0 {checkpoint}', 'The model comes last'),
        ('predict.py', '{file}', 'There are no images'),
        ('predict.py', '{config} {checkpoint}', 'There are no images'),
        ('predict.py', '{images} {file}', 'broken.png: It is not an image'),
        ('predict.py', '{images}/*.gif {file}', 'There is no image in'),
        ('predict.py', '{images}/0 {file} --top 0', '--top must be 1 or more'),
        ('predict.py', '{images}/0 {file} --device cpu', '--device is for checkp'),
        (
            'predict.py',
            '{images}/0 {config} {classifier_checkpoint}',
            'does not hold the weights of this network',
        ),
        ('predict.py', '{images}/0 {config} {broken}', 'is damaged or not a check'),
        (
            'predict.py',
            '{images}/0 {classifier_file}',
            'x.png: .*one size only, got height 192 instead of 48',
        ),
    ],
)
def test_bad_input_gets_one_sentence(run, places, script, arguments, sentence):
    arguments = arguments.format(**vars(places)).split()
    folder = (
        ('--work-dir', places.out) if script == 'test.py' else ('--out', places.out)
    )
    error = run(script, *arguments, *folder)
    assert isinstance(error, str)
    assert error.startswith('error: ') and '\n' not in error
    assert re.search(sentence, error), error
    assert not list(places.out.rglob('*.json'))
    if 'classes' not in sentence and 'as class' not in sentence:
        assert not places.out.exists()


@pytest.mark.parametrize('script', ['test.py', 'predict.py'])
def test_a_file_that_was_quantised(run, places, exported, digits, tmp_path, script):
    from onnxruntime.quantization import quantize_dynamic

    file = tmp_path / 'quantised.onnx'
    image = next((digits / 'classification' / 'val').rglob('*.png'))
    quantize_dynamic(exported['classifier'].file, str(file))
    options = {
        'test.py': (places.classifier_config, file, '--work-dir', places.out),
        'predict.py': (image, file, '--json', places.out / 'found.json'),
    }[script]
    error = run(script, *options)
    assert 'was changed since it was exported' in error and '--no-verify' in error
    assert run(script, *options, '--no-verify') == 0
    assert list(places.out.rglob('*.json'))


class Opaque:
    """What only a trusted checkpoint may hold."""


def test_predict_asks_for_trust(run, places, tmp_path):
    checkpoint = tmp_path / 'opaque.pth'
    content = torch.load(places.checkpoint, weights_only=True)
    torch.save(dict(content, extra=Opaque()), checkpoint)
    arguments = (places.images / '0', places.config, checkpoint, '--out', places.out)
    assert '--trust-checkpoint' in run('predict.py', *arguments)
    assert not places.out.exists()
    assert run('predict.py', *arguments, '--trust-checkpoint') == 0
