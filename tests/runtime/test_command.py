"""The command mmcdnv2-run, as its users see it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

BOXES = [[10.04, 20, 40, 30], [100, 0, 120, 60], [0, 0, 5, 5]]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    paths = [folder / 'a.png', folder / 'b.jpg', folder / 'a.jpg']
    for path, colour in zip(paths, ((250, 0, 0), (0, 250, 0), (0, 0, 250))):
        Image.new('RGB', (128, 96), colour).save(path)
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder


@pytest.fixture
def run(images):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'mmcdnv2_runtime', *map(str, arguments)],
            env=dict(os.environ, PYTHONPATH=str(ROOT / 'runtime')),
            capture_output=True,
            text=True,
            cwd=images,
        )

    return run


@pytest.fixture
def detector(make_detector):
    return make_detector(BOXES, [0.9, 0.4, 0.1], [0, 1, 0], classes='["cat", "tyre é"]')


def test_a_table_of_boxes(run, detector):
    result = run('a.png', detector)
    assert result.stdout == (
        'a.png (128x96)\n'
        '  class    score   left   top  right  bottom\n'
        '  cat     0.9000   10.0  20.0   40.0    30.0\n'
        '  tyre é  0.4000  100.0   0.0  120.0    60.0\n'
        '\n'
    )
    assert (result.returncode, result.stderr) == (0, '')
    lines = run('a.png', detector, '--score-threshold', '0', '--top', '1').stdout
    assert lines.splitlines()[2:] == ['  cat    0.9000  10.0  20.0   40.0    30.0', '']
    assert len(run('--score-threshold=0', 'a.png', detector).stdout.splitlines()) == 6
    nothing = run('a.png', '--score-threshold', '0.95', 'b.jpg', detector).stdout
    assert nothing.count('  nothing found\n') == 2
    # A terminal without these letters.
    ascii_only = dict(os.environ, PYTHONPATH=str(ROOT / 'runtime'), PYTHONUTF8='0')
    ascii_only.update(LC_ALL='POSIX', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='ascii')
    result = subprocess.run(
        [sys.executable, '-m', 'mmcdnv2_runtime', 'a.png', str(detector)],
        env=ascii_only,
        stdout=subprocess.PIPE,
        cwd=detector.parent / 'images',
    )
    assert result.returncode == 0 and b'tyre \\xe9  0.4000' in result.stdout


def test_a_table_of_classes(run, make_classifier):
    result = run('b.jpg', make_classifier(), '--top', '2', '--threads', '1')
    assert result.stdout == (
        'b.jpg (128x96)\n  class   score\n  green  1.0000\n  blue   0.0000\n\n'
    )


def test_unreadable_images_among_many(run, images, detector):
    result = run(
        *('a.png', 'broken.jpg', 'none.jpg', 'b.jpg', detector),
        *('--json', 'out/found.json', '--out', 'drawn'),
    )
    assert result.returncode == 1
    assert result.stderr == (
        'error: broken.jpg is no image that Pillow can read.\n'
        'error: none.jpg cannot be read: No such file or directory.\n'
    )
    assert [line for line in result.stdout.splitlines() if 'x96' in line] == [
        'a.png (128x96)',
        'b.jpg (128x96)',
    ]
    content = json.loads((images / 'out' / 'found.json').read_text())
    assert content['model'] == str(detector)
    first, broken, none, last = content['images']
    assert first['boxes'][1] == dict(
        name='tyre é', label=1, score=0.4, box=[100.0, 0.0, 120.0, 60.0]
    )
    assert broken == dict(
        image='broken.jpg', error='broken.jpg is no image that Pillow can read.'
    )
    assert (none['image'], last['image']) == ('none.jpg', 'b.jpg')
    assert sorted(os.listdir(images / 'out')) == ['found.json']
    assert sorted(os.listdir(images / 'drawn')) == ['a.jpg', 'b.jpg']


def test_a_file_that_was_changed_on_purpose(run, detector):
    onnx = pytest.importorskip('onnx')
    model = onnx.load(detector)
    # As a converter leaves it: with a field behind the digits.
    model.graph.doc_string = 'changed'
    model.metadata_props.add(key='onnx.infer', value='a converter')
    onnx.save(model, detector)
    result = run('a.png', detector)
    assert result.returncode == 1
    assert result.stderr == (
        f'error: {detector} was changed since it was exported (its checksum differs); '
        'if by accident, such as a failed copy, copy or export it again; if on '
        'purpose, such as by a quantiser, pass --no-verify, or verify=False in '
        'Python.\n'
    )
    result = run('a.png', detector, '--no-verify')
    assert (result.returncode, result.stderr) == (0, '')
    assert 'tyre é  0.4000' in result.stdout


def test_an_image_of_another_size_is_named(run, make_detector):
    path = make_detector(BOXES, [0.9] * 3, [0] * 3, dynamic=[], size=[96, 100])
    result = run('a.png', path)
    assert result.returncode == 1
    assert result.stderr.startswith('error: a.png: An image of 128x96 was given, but')


def test_boxes_and_masks_are_drawn(run, images, make_detector):
    masks = np.ones((1, 28, 28))
    path = make_detector([[10, 20, 60, 80]], [0.9], [0], masks)
    before = {path: path.read_bytes() for path in images.iterdir()}
    # Over no image, and no picture over another.
    result = run('a.png', 'a.jpg', 'b.jpg', path, '--out', '.')
    assert (result.returncode, result.stderr) == (0, '')
    for image, content in before.items():
        assert image.read_bytes() == content
    assert {path.name for path in set(images.iterdir()) - set(before)} == {
        'a_2.jpg',
        'a_3.jpg',
        'b_2.jpg',
    }
    drawn = np.asarray(Image.open(images / 'b_2.jpg')).astype(int)
    plain = np.asarray(Image.open(images / 'b.jpg')).astype(int)
    changed = np.abs(drawn - plain).max(2) > 60
    assert changed[22:78, 12:58].mean() > 0.95
    changed[16:84, 6:90] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('a.png', 'b.jpg'), 'error: b.jpg is no ONNX file or is damaged'),
        (
            ('a.png', 'MODEL', '--json', '.'),
            'error: . cannot be written: Is a directory',
        ),
        (('a.png', 'MODEL', '--json', 'a.png/x'), 'error: a.png/x cannot be written: '),
        (
            ('a.png', 'MODEL', '--out', 'a.png'),
            'error: a.png/a.jpg cannot be written: ',
        ),
        (('a.png', 'CLASSES', '--out', 'x'), 'is a classifier, which has no boxes'),
        (('a.png', 'MODEL', '--threads', '0'), 'argument --threads: invalid'),
        (('a.png', 'MODEL', '--top', 'x'), 'argument --top: invalid'),
        (('a.png',), 'the following arguments are required: MODEL.onnx'),
    ],
)
def test_what_cannot_be_done(
    run, images, detector, make_classifier, arguments, message
):
    before = sorted(images.iterdir())
    files = dict(MODEL=detector, CLASSES=make_classifier())
    result = run(*(files.get(argument, argument) for argument in arguments))
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert 'Traceback' not in result.stderr
    assert sorted(images.iterdir()) == before


def test_json_is_written_whole_or_not_at_all(run, images, detector):
    """A disk that is full leaves the file that was there."""
    target = images / 'found.json'
    target.write_text('before')
    code = (
        'import sys, pathlib\n'
        'def full(self, text):\n'
        '    self.write_bytes(text[:9].encode())\n'
        '    raise OSError(28, "No space left on device")\n'
        'pathlib.Path.write_text = full\n'
        'from mmcdnv2_runtime.cli import main\n'
        'main(sys.argv[1:])\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, 'a.png', str(detector), '--json', 'found.json'],
        env=dict(os.environ, PYTHONPATH=str(ROOT / 'runtime')),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=images,
    )
    assert result.returncode == 1
    assert result.stderr == (
        'error: found.json cannot be written: No space left on device.\n'
    )
    assert target.read_text() == 'before'
    assert not [path for path in images.iterdir() if path.name.startswith('.')]


def test_nobody_reads_the_output(run, images, detector):
    # A pipe does not hold the output for so many images: the command waits.
    images_given = ['a.png'] * 1000
    command = [sys.executable, '-m', 'mmcdnv2_runtime', *images_given, str(detector)]
    process = subprocess.Popen(
        command,
        env=dict(os.environ, PYTHONPATH=str(ROOT / 'runtime'), PYTHONUNBUFFERED='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=images,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ''
    process.stderr.close()
    assert process.wait() == 1
