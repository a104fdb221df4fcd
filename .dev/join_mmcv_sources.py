"""Compile mmcv's operators in minutes by joining 78 sources into a few units.

Most of the build time is spent on PyTorch's headers, which each source parses again.
Sources included into one unit parse them once.

    python .dev/join_mmcv_sources.py SDIST FOLDER

unpacks mmcv's source distribution in FOLDER and prints the path. Its setup.py, which
compiles each *.cpp file, is unchanged: the sources get another suffix and the units
replace them. Sources that are not listed below are compiled separately.
"""

import sys
import tarfile
from pathlib import Path

# The sources in cpu/ by unit. Some define the same names (PreCalc in the three
# roi_align and in bezier_align), so they cannot share one.
CPU_UNITS = (
    (
        'active_rotated_filter',
        'bbox_overlaps_cpu',
        'bezier_align',
        'nms',
        'nms_quadri',
        'points_in_boxes',
        'sparse_indice',
        'sparse_maxpool',
        'sparse_reordering',
        'voxelization',
    ),
    (
        'box_iou_quadri',
        'box_iou_rotated',
        'deform_conv',
        'modulated_deform_conv',
        'nms_rotated',
        'pixel_group',
        'roi_align',
    ),
    # psamask defines macros "min" and "max", so it must be last.
    ('roi_align_rotated', 'rotated_feature_align', 'psamask'),
)
# By far the slowest, so it has its own unit.
BINDINGS = 'pybind'
# Has "using namespace std", so it must be last.
LAST = 'contour_expand'


def join_sources(folder: Path) -> None:
    """Replace the operators' sources by units that include them.

    Args:
        folder (Path): mmcv's ``mmcv/ops/csrc/pytorch``.

    Raises:
        SystemExit: If a source is missing; nothing is changed then.
    """
    dispatchers = {path.stem for path in folder.glob('*.cpp')} - {BINDINGS, LAST}
    units = [
        # distutils compiles in name order; the slowest first.
        [folder / f'{BINDINGS}.cpp'],
        [folder / f'{name}.cpp' for name in [*sorted(dispatchers), LAST]],
        *([folder / 'cpu' / f'{name}.cpp' for name in unit] for unit in CPU_UNITS),
    ]
    missing = [str(path) for unit in units for path in unit if not path.is_file()]
    if missing:
        sys.exit(f'This version of mmcv lacks {", ".join(missing)}.')
    for number, unit in enumerate(units):
        lines = []
        for source in unit:
            included = source.rename(source.with_suffix('.inc'))
            lines.append(f'#include "{included.relative_to(folder)}"\n')
        (folder / f'0_unit_{number}.cpp').write_text(''.join(lines))


def main() -> None:
    """Unpack, join and print the path."""
    sdist, folder = sys.argv[1:]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
        root = Path(folder, archive.getnames()[0].split('/')[0])
    join_sources(root / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
    print(root)


if __name__ == '__main__':
    main()
