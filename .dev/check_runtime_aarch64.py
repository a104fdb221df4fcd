"""Run the ARM wheel of mmcdnv2-runtime under emulation and compare results.

    python .dev/check_runtime_aarch64.py [MODEL.onnx ...] [--image IMAGE]

The first run unpacks Debian's Python for ARM and wheels of NumPy, Pillow and ONNX
Runtime into the user's cache. Each file runs on this machine and on the emulated one,
and the results are compared. Without a file, the demo's classifier is exported, pruned
but not trained.

Needs Debian's apt-get, g++-aarch64-linux-gnu, qemu-user and debian-archive-keyring.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
KEYRING = Path('/usr/share/keyrings/debian-archive-keyring.gpg')
MIRROR = 'http://deb.debian.org/debian bookworm main'
PYTHON = '3.11'
# For scores, and for boxes relative to the image size.
TOLERANCE = 1e-3
# pip needs a list of all.
PLATFORMS = ['manylinux2014_aarch64']
PLATFORMS += [f'manylinux_2_{minor}_aarch64' for minor in range(17, 37)]
# ONNX Runtime reads /proc/cpuinfo and crashes on another architecture's (1.32). This is
# a Raspberry Pi 4's.
CPUINFO = """processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
SCRIPT = """
import json, platform, sys
import mmcdnv2_runtime
from mmcdnv2_runtime.model_file import read_model_file
results = {}
*models, image = sys.argv[1:]
for path in models:
    if read_model_file(path).task == 'classification':
        found = mmcdnv2_runtime.Classifier(path, 2)(image)
        results[path] = [[score] for score in found.scores.tolist()]
    else:
        # Relative to the image size, so that boxes and scores have one tolerance.
        found = mmcdnv2_runtime.Detector(path, 2)(image)
        side = max(found.image_size)
        results[path] = [
            [score, label, *(value / side for value in box)]
            for box, score, label, _ in found
        ]
results['machine'] = platform.machine()
print(json.dumps(results))
"""


def check_tools() -> None:
    """Exit with the missing packages, if any."""
    tools = {
        'qemu-aarch64': 'qemu-user',
        'aarch64-linux-gnu-g++': 'g++-aarch64-linux-gnu',
        'apt-get': 'apt',
        'dpkg': 'dpkg',
    }
    missing = [package for tool, package in tools.items() if not shutil.which(tool)]
    if not KEYRING.exists():
        missing.append('debian-archive-keyring')
    if missing:
        sys.exit(f'This needs Debian, with the packages {" ".join(missing)}.')


def unpack_system(root: Path) -> None:
    """Unpack Debian's Python for ARM without changing this system.

    Args:
        root (Path): Root folder of the emulated system.
    """
    print('Unpacking Python for ARM.', flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ('state/lists/partial', 'cache/archives/partial'):
            (folder / part).mkdir(parents=True)
        (folder / 'status').touch()
        (folder / 'sources').write_text(f'deb [signed-by={KEYRING}] {MIRROR}\n')
        options = {
            'APT::Architecture': 'arm64',
            'APT::Architectures': 'arm64',
            'APT::Sandbox::User': '',
            'Debug::NoLocking': '1',
            'Dir::State': folder / 'state',
            'Dir::State::status': folder / 'status',
            'Dir::Cache': folder / 'cache',
            'Dir::Etc::sourcelist': folder / 'sources',
            'Dir::Etc::sourceparts': '-',
        }
        apt = [
            'apt-get',
            '-qq',
            *(f'-o{key}={value}' for key, value in options.items()),
        ]
        packages = (f'python{PYTHON}', 'libstdc++6')
        for command in (
            ['update'],
            ['install', '-d', '-y', '--no-install-recommends', *packages],
        ):
            subprocess.run([*apt, *command], check=True, stdout=subprocess.DEVNULL)
        for package in sorted((folder / 'cache' / 'archives').glob('*.deb')):
            subprocess.run(['dpkg', '-x', str(package), str(root)], check=True)
    (root / 'proc').mkdir(exist_ok=True)
    (root / 'proc' / 'cpuinfo').write_text(CPUINFO.format(0) + CPUINFO.format(1))


def install(target: Path, *requirements: str, foreign: bool = False) -> None:
    """Install wheels into a folder, for this machine or for ARM."""
    # -qq hides warnings about conflicts with the environment, but not errors.
    command = [sys.executable, '-m', 'pip', 'install', '-qq', '--target', str(target)]
    if foreign:
        command += ['--only-binary', ':all:', '--python-version', PYTHON]
        command += [f'--platform={name}' for name in PLATFORMS]
    subprocess.run([*command, *requirements], check=True)


def system() -> Path:
    """Return the emulated system with Python, NumPy, Pillow and ONNX Runtime."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    root = cache / 'mmcdnv2' / 'aarch64'
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root.parent))
        try:
            unpack_system(partial)
            names = ('numpy', 'onnxruntime', 'pillow')
            install(partial / 'site', *names, foreign=True)
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root


def build(machine: str, folder: Path) -> Path:
    """Build the wheel for an architecture and install it without dependencies."""
    script = HERE / 'build_runtime_wheels.py'
    subprocess.run(
        [sys.executable, str(script), '--out', str(folder), machine], check=True
    )
    (wheel,) = folder.glob(f'*_{machine}.whl')
    target = folder / machine
    install(target, '--no-deps', str(wheel), foreign=machine == 'aarch64')
    return target


def photograph() -> Path:
    """Return a photograph from scikit-learn."""
    from sklearn import datasets

    return Path(datasets.__file__).parent / 'images' / 'china.jpg'


def export(folder: Path) -> Path:
    """Export the demo's classifier, pruned but not trained."""
    import torch
    from mmengine.config import Config

    from mmcdnv2.builder import build_model
    from mmcdnv2.layers import sparse_layers

    config = HERE.parent / 'configs' / 'demo' / 'cdnv2_a_digits.py'
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config))
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    # Otherwise all classes have nearly equal scores.
    with torch.no_grad():
        model.head.layers[-1].fc.weight *= 100
    checkpoint = folder / 'checkpoint.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    target = folder / 'cdnv2_a_digits.onnx'
    tool = HERE.parent / 'tools' / 'export.py'
    command = [sys.executable, '-W', 'ignore', str(tool)]
    subprocess.run([*command, str(config), str(checkpoint), str(target)], check=True)
    return target


def largest_difference(here: List[List[float]], there: List[List[float]]) -> float:
    """Compare the results of both machines."""
    if len(here) != len(there):
        sys.exit(f'{len(here)} results here, but {len(there)} on ARM.')
    pairs = [pair for rows in zip(here, there) for pair in zip(*rows)]
    return max((abs(a - b) for a, b in pairs), default=0.0)


def run(command: List[str], *paths: Path) -> Dict[str, Any]:
    """Run Python with packages from these folders; return its JSON output."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)))
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f'{command[0]} failed with status {result.returncode}.')
    return dict(json.loads(result.stdout))


def main() -> None:
    """Run the models on both machines and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', type=Path, metavar='MODEL.onnx')
    parser.add_argument('--image', type=Path, help='default: one from scikit-learn')
    args = parser.parse_args()
    check_tools()
    image = args.image or photograph()
    root = system()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [path.resolve() for path in args.models] or [export(folder)]
        arguments = ['-c', SCRIPT, *map(str, models), str(image)]
        here = run([sys.executable, *arguments], build(platform.machine(), folder))
        python = root / 'usr' / 'bin' / f'python{PYTHON}'
        command = ['qemu-aarch64', '-L', str(root), str(python), *arguments]
        there = run(command, build('aarch64', folder), root / 'site')
    for path in models:
        difference = largest_difference(here[str(path)], there[str(path)])
        print(
            f'{path.name}: {len(here[str(path)])} results, largest difference between '
            f'{there["machine"]} and {here["machine"]} {difference:.1e}'
        )
        if difference > TOLERANCE:
            sys.exit(f'The difference must be at most {TOLERANCE}.')


if __name__ == '__main__':
    main()
