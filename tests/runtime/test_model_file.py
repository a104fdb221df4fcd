"""A file is what it was when it was exported, or it is refused."""

import subprocess
import sys

import pytest
from conftest import ROOT
from mmcdnv2_runtime import Classifier, Detector, ModelError
from mmcdnv2_runtime.model_file import read_model_file


def test_metadata_are_read(make_classifier):
    path = make_classifier(
        size=[40, 30], dynamic=['batch'], channel_order='RGB', dtype='float32'
    )
    file = read_model_file(path)
    assert (file.task, file.raw, file.native) == ('classification', False, False)
    assert file.classes == ['blue', 'green', 'red']
    assert (file.size, file.dynamic) == ((40, 30), ['batch'])
    assert (file.channel_order, file.dtype) == ('RGB', 'float32')


def test_any_changed_byte_is_noticed(make_classifier):
    path = make_classifier()
    content = path.read_bytes()
    read_model_file(path)
    # In the graph's weights, in the metadata, in the digits.
    weight = content.index(b'ten') + 8
    for place in (weight, content.index(b'toy', weight), len(content) - 5):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ModelError, match='changed since it was exported'):
            read_model_file(path)
    path.write_bytes(changed)
    read_model_file(path, verify=False)


def test_cut_files_and_other_files(make_classifier, tmp_path):
    path = make_classifier()
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError) as error:
            read_model_file(path)
        assert str(error.value).startswith(str(path))
        assert str(error.value).count('\n') == 0
    for content in (b'\xff' * 99, b'#!/bin/sh\necho', b'\x89PNG\r\n\x1a\n' + b'a' * 99):
        path.write_bytes(content)
        with pytest.raises(ModelError, match='is no ONNX file or is damaged'):
            read_model_file(path)
    with pytest.raises(ModelError, match='none.onnx cannot be read: No such file'):
        read_model_file(tmp_path / 'none.onnx')
    with pytest.raises(ModelError, match='cannot be read: Is a directory'):
        read_model_file(tmp_path)


def test_a_file_that_was_quantised(exported, photographs, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    file, quantised = exported['classifier'].file, tmp_path / 'quantised.onnx'
    quantize_dynamic(file, str(quantised))
    with pytest.raises(ModelError, match='changed .* pass --no-verify, or verify=F'):
        Classifier(quantised)
    image = photographs[0][:48, :48]
    scores = Classifier(quantised, verify=False)(image, 'RGB').scores
    expected = Classifier(file)(image, 'RGB').scores
    assert abs(scores - expected).max() < 0.05


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(format=None), 'has no metadata of mmcdnv2; export the model'),
        (dict(format='2', version='9.1'), 'format 2, written by mmcdnv2 9.1, but'),
        (dict(classes='['), 'metadata that are not understood'),
        (dict(raw='maybe'), "not understood .'maybe' is none of false, true"),
        (dict(input=None), "not understood .'mmcdnv2.input'"),
        (dict(size=[4]), 'metadata that are not understood'),
        (dict(dtype='uint8', input='{}'), 'metadata that are not understood'),
    ],
)
def test_metadata_that_are_not_ours(make_classifier, changes, message):
    with pytest.raises(ModelError, match=message):
        Classifier(make_classifier(**changes))


@pytest.mark.parametrize(
    ('kind', 'changes', 'message'),
    [
        (Detector, {}, 'is a classifier; use Classifier'),
        (Classifier, dict(task='detection'), 'is a detector; use Detector'),
        (Detector, dict(task='features'), 'is a backbone, which names nothing'),
        (Classifier, dict(task='poses'), 'is for the task poses'),
        (Classifier, dict(raw='true'), 'holds the raw outputs of its heads'),
    ],
)
def test_files_for_other_uses(make_classifier, kind, changes, message):
    with pytest.raises(ModelError, match=message):
        kind(make_classifier(**changes))


def test_a_graph_that_onnxruntime_refuses(make_classifier, capfd):
    onnx = pytest.importorskip('onnx')
    path = make_classifier()
    model = onnx.load(path)
    model.graph.node[0].op_type = 'Unheard'
    onnx.save(model, path)
    with pytest.raises(ModelError, match='changed since it was exported'):
        Classifier(path)
    with pytest.raises(ModelError, match='cannot be run by onnxruntime .*Unheard'):
        Classifier(path, verify=False)
    # ONNX Runtime adds no lines of its own.
    assert 'Unheard' not in capfd.readouterr().err


def test_the_checksum_takes_no_memory(make_classifier, tmp_path):
    """A file of 300 MB is read piece by piece."""
    onnx = pytest.importorskip('onnx')
    model = onnx.load(make_classifier())
    digits = model.metadata_props.pop()
    assert digits.key == 'mmcdnv2.checksum'
    head = model.SerializeToString()
    # A field of its own, number 25 (functions), which nobody here looks into.
    size = 300 << 20
    path = tmp_path / 'large.onnx'
    with path.open('wb') as stream:
        stream.write(b'\xca\x01' + varint(size))
        stream.seek(size, 1)
        stream.write(head)
    code = (
        'import resource, sys\n'
        'from mmcdnv2_runtime.model_file import read_model_file\n'
        'from mmcdnv2_runtime.errors import ModelError\n'
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'try: read_model_file(sys.argv[1])\n'
        'except ModelError as error: print(error)\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n'
    )
    output = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        env=dict(PYTHONPATH=str(ROOT / 'runtime')),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    sentence, kilobytes = output.splitlines()
    assert 'was changed since it was exported' in sentence
    assert int(kilobytes) < 20000


def varint(value):
    content = b''
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])
