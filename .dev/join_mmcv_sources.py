"""Let mmcv's operators compile in minutes: as a few units, not as 78 sources.

Nearly all of the time of its build goes into PyTorch's headers, which each source
parses anew. Sources that are included into one unit parse them once.

    python .dev/join_mmcv_sources.py SDIST FOLDER

unpacks mmcv's source distribution in FOLDER and prints where. Its setup.py, which
compiles each *.cpp it finds, is left as it is: the sources get another suffix and the
units stand in their place. A source that is not named below is compiled by itself.
"""

import sys
import tarfile
from pathlib import Path

# The sources under cpu/ that share a unit. Some define the same names (PreCalc of
# the three roi_align and bezier_align), so they do not fit into one.
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
    # psamask defines macros "min" and "max", so nothing may follow it.
    ('roi_align_rotated', 'rotated_feature_align', 'psamask'),
)
# By far the slowest, so that it has a unit to itself.
BINDINGS = 'pybind'
# It says "using namespace std", so nothing may follow it.
LAST = 'contour_expand'


def join_sources(folder: Path) -> None:
    """Replace the sources of the operators by units that include them.

    Args:
        folder (Path): mmcv's ``mmcv/ops/csrc/pytorch``.

    Raises:
        SystemExit: If a source is missing; nothing is changed then.
    """
    dispatchers = {path.stem for path in folder.glob('*.cpp')} - {BINDINGS, LAST}
    units = [
        # distutils compiles in the order of the names: the slowest first.
        [folder / f'{BINDINGS}.cpp'],
        [folder / f'{name}.cpp' for name in [*sorted(dispatchers), LAST]],
        *([folder / 'cpu' / f'{name}.cpp' for name in unit] for unit in CPU_UNITS),
    ]
    missing = [str(path) for unit in units for path in unit if not path.is_file()]
    if missing:
        sys.exit(f'mmcv was expected to have {", ".join(missing)}.')
    for number, unit in enumerate(units):
        lines = []
        for source in unit:
            included = source.rename(source.with_suffix('.inc'))
            lines.append(f'#include "{included.relative_to(folder)}"\n')
        (folder / f'0_unit_{number}.cpp').write_text(''.join(lines))


def main() -> None:
    """Unpack, join and print where."""
    sdist, folder = sys.argv[1:]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
        root = Path(folder, archive.getnames()[0].split('/')[0])
    join_sources(root / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
    print(root)


if __name__ == '__main__':
    main()
