"""The wheel: what is in it, where it can be installed, and that it runs."""

import email
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

LIBRARY = 'mmcdnv2_runtime/libmmcdnv2_onnxruntime.so'
OTHER = {'x86_64': 'aarch64', 'aarch64': 'x86_64'}
# What PEP 600 and the policies of manylinux let a wheel ask its system for.
SYSTEM = {'libc.so.6', 'libm.so.6', 'libgcc_s.so.1', 'libpthread.so.0'}
SYSTEM |= {'ld-linux-x86-64.so.2', 'ld-linux-aarch64.so.1'}


@pytest.fixture
def run(installed):
    """Run Python with the installed package and not the clone's."""

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, 'PYTHONPATH': str(installed), **variables},
            capture_output=True,
            text=True,
        )

    return run


def readelf(option, library):
    if shutil.which('readelf') is None:
        pytest.skip('readelf is not installed')
    return subprocess.check_output(['readelf', '-W', option, str(library)], text=True)


def check_library(wheel, library):
    """The wheel's name promises no more than the library keeps."""
    versions = re.findall(r'Name: GLIBC_2\.(\d+)', readelf('--version-info', library))
    newest = max(map(int, versions))
    tag = re.search(r'-manylinux_2_(\d+)_(x86_64|aarch64)\.whl$', wheel.name)
    assert int(tag[1]) == newest <= 28
    dynamic = readelf('--dynamic', library)
    assert set(re.findall(r'NEEDED.*\[(.*)\]', dynamic)) <= SYSTEM
    exported = [
        line.split()[7].split('@')[0]
        for line in readelf('--dyn-syms', library).splitlines()
        if ' GLOBAL ' in line and ' UND ' not in line
    ]
    assert exported == ['RegisterCustomOps']


def test_what_is_in_it(wheel, installed):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = (name for name in names if name.endswith('.dist-info/METADATA'))
        metadata = email.message_from_bytes(archive.read(info))
        assert sum(item.file_size for item in archive.infolist()) < 3e6
    source = ROOT / 'runtime' / 'mmcdnv2_runtime'
    expected = {f'mmcdnv2_runtime/{path.name}' for path in source.glob('*.py')}
    expected |= {'mmcdnv2_runtime/py.typed', LIBRARY}
    assert {name for name in names if '.dist-info/' not in name} == expected
    assert any(name.endswith('/LICENSE') for name in names)
    needed = {
        re.match(r'[\w-]+', line)[0] for line in metadata.get_all('Requires-Dist')
    }
    assert needed == {'numpy', 'onnxruntime', 'pillow'}
    assert metadata['Requires-Python'] == '>=3.8'
    scope = {}
    exec((ROOT / 'mmcdnv2' / 'version.py').read_text(), scope)
    assert metadata['Version'] == scope['__version__']
    assert wheel.name.startswith(f'mmcdnv2_runtime-{scope["__version__"]}-py3-none-')
    check_library(wheel, installed / LIBRARY)


def test_the_other_processors_wheel(tmp_path, build_wheel, installed):
    other = OTHER[platform.machine()]
    if shutil.which(f'{other}-linux-gnu-g++') is None:
        pytest.skip(f'there is no compiler {other}-linux-gnu-g++')
    wheel = build_wheel(tmp_path, other)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'other')
    check_library(wheel, tmp_path / 'other' / LIBRARY)
    # Where it was put in all the same, it is refused before it is loaded.
    target = tmp_path / 'mixed'
    shutil.copytree(installed, target)
    shutil.copy(tmp_path / 'other' / LIBRARY, target / LIBRARY)
    code = 'import mmcdnv2_runtime as m\ntry: m.session_options()\n'
    code += 'except m.ModelError as error: print(error)'
    result = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(os.environ, PYTHONPATH=str(target)),
        capture_output=True,
        text=True,
    )
    assert f'is built for Linux on {other}, but this is Linux on' in result.stdout
    assert result.returncode == 0


@pytest.fixture
def native(tmp_path, native_stem, sign, add_metadata):
    """A classifier of our operators: a stem whose pooled features are scores."""
    onnx = pytest.importorskip('onnx')
    helper = onnx.helper
    graph = helper.make_graph(
        [*native_stem.nodes, helper.make_node('Identity', ['pooled'], ['scores'])],
        'native',
        [
            helper.make_tensor_value_info(
                'images', onnx.TensorProto.UINT8, ['N', 3, 'H', 'W']
            )
        ],
        [
            helper.make_tensor_value_info(
                'scores', onnx.TensorProto.FLOAT, ['N', native_stem.channels]
            )
        ],
        native_stem.initializers,
    )
    opsets = [helper.make_opsetid('', 17), native_stem.opset]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    add_metadata(model, 'classification', operators='native', classes='[]')
    path = tmp_path / 'native.onnx'
    path.write_bytes(sign(model))
    return path


def test_native_operators_run(run, native, native_stem, tmp_path, photographs):
    path = native
    image = tmp_path / 'image.png'
    pixels = photographs[0][:101, :203]
    Image.fromarray(pixels).save(image)
    result = run('-m', 'mmcdnv2_runtime', image, path, '--json', tmp_path / 'a.json')
    assert (result.returncode, result.stderr) == (0, '')
    (found,) = json.loads((tmp_path / 'a.json').read_text())['images']
    scores = native_stem.pooled(pixels)
    assert len(found['classes']) == 5 and np.ptp(scores) > 1e-2
    for item in found['classes']:
        assert item['score'] == pytest.approx(scores[item['label']], abs=1e-3)
    # In several threads, and without PyTorch.
    code = (
        'import sys, mmcdnv2_runtime as m\n'
        'for threads in (1, 2, 3, None):\n'
        '    print(*m.Classifier(sys.argv[1], threads)(sys.argv[2]).scores)\n'
        'assert not {"torch", "cv2", "mmcdnv2"} & set(sys.modules)\n'
        'print(m.library_path())\n'
    )
    *lines, where = run('-c', code, path, image).stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        row = np.array(line.split(), float)
        np.testing.assert_allclose(row, scores, atol=1e-4 * np.abs(scores).max())
    assert where.endswith(LIBRARY) and str(ROOT) not in where


def test_an_operator_that_the_library_has_not(run, native, tmp_path, sign):
    onnx = pytest.importorskip('onnx')
    path = native
    model = onnx.load(path)
    model.graph.node[1].op_type = 'Crystal'
    model.metadata_props.pop()
    path.write_bytes(sign(model))
    Image.new('RGB', (9, 9)).save(tmp_path / 'image.png')
    result = run('-m', 'mmcdnv2_runtime', tmp_path / 'image.png', path)
    assert result.returncode == 1 and result.stdout == ''
    assert re.fullmatch(
        r'error: .*native.onnx, written by mmcdnv2 0.1.0, cannot be run by onnxruntime '
        r'[\d.]+ and this mmcdnv2-runtime; update them .*Crystal.*\n',
        result.stderr,
    )


def test_a_cut_library_ends_no_process(installed, run, native, tmp_path):
    cut = tmp_path / 'cut'
    shutil.copytree(installed, cut)
    content = (installed / LIBRARY).read_bytes()
    Image.new('RGB', (9, 9)).save(tmp_path / 'image.png')
    for length in (len(content) - 1, len(content) // 2, 4096):
        (cut / LIBRARY).write_bytes(content[:length])
        result = run(
            *('-m', 'mmcdnv2_runtime', tmp_path / 'image.png', native),
            PYTHONPATH=str(cut),
        )
        assert result.returncode == 1
        assert re.fullmatch(r'error: .*\.so is damaged; install .*\n', result.stderr)


def test_building_says_what_is_missing(tmp_path):
    script = str(ROOT / '.dev' / 'build_runtime_wheels.py')

    def build(*arguments, **variables):
        return subprocess.run(
            [sys.executable, script, '--out', str(tmp_path / 'dist'), *arguments],
            env=dict(os.environ, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    other = OTHER[platform.machine()]
    result = build(other, PATH=str(tmp_path))
    assert result.returncode == 1
    package = f'g++-{other.replace("_", "-")}-linux-gnu'
    assert result.stdout == (
        f'No wheel for {other}: its compiler {other}-linux-gnu-g++ was not found; on '
        f'Debian: apt-get install {package}\n'
    )
    compiler = tmp_path / 'odd-c++'
    compiler.write_text('#!/bin/sh\necho riscv64-linux-gnu\n')
    compiler.chmod(0o755)
    result = build(platform.machine(), CXX=str(compiler))
    assert result.returncode == 1
    assert (
        'error: mmcdnv2-runtime is for Linux on x86_64 and aarch64, but'
        in result.stdout
    )
    assert not (tmp_path / 'dist').exists()


@pytest.mark.parametrize(
    ('names', 'found', 'built', 'status'),
    [
        ([], ['own'], ['own'], 0),
        ([], ['own', 'other'], ['own', 'other'], 0),
        ([], ['other'], ['other'], 1),
        (['own', 'other'], ['own'], ['own'], 1),
        (['own'], ['own'], ['own'], 0),
    ],
)
def test_builds_what_can_be_built(
    names, found, built, status, tmp_path, monkeypatch, capsys
):
    path = ROOT / '.dev' / 'build_runtime_wheels.py'
    spec = importlib.util.spec_from_file_location('build_runtime_wheels', path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    machines = dict(own='x86_64', other='aarch64')
    compilers = dict(own='c++', other='aarch64-linux-gnu-g++')

    def build(machine, folder):
        wheel = folder / f'{machine}.whl'
        with zipfile.ZipFile(wheel, 'w') as archive:
            archive.writestr('library', 'content')
        return wheel

    monkeypatch.setattr(script, 'build', build)
    monkeypatch.setattr(script.platform, 'machine', lambda: 'x86_64')
    monkeypatch.delenv('CXX', raising=False)
    available = {compilers[name] for name in found}
    monkeypatch.setattr(
        script.shutil, 'which', lambda name: name if name in available else None
    )
    arguments = ['--out', str(tmp_path), *(machines[name] for name in names)]
    monkeypatch.setattr(sys, 'argv', ['build_runtime_wheels.py', *arguments])
    if status:
        with pytest.raises(SystemExit) as error:
            script.main()
        assert error.value.code == status
    else:
        script.main()
    assert {path.stem for path in tmp_path.iterdir()} == {machines[n] for n in built}
    lines = capsys.readouterr().err.splitlines()
    wanted = [machines[name] for name in names or machines if name not in built]
    assert len(lines) == len(wanted)
    for machine, line in zip(wanted, lines):
        assert line.startswith(f'No wheel for {machine}: its compiler ')
        assert 'apt-get install g++-' in line
