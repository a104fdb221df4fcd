"""COCO's trainval35k and minival from the annotations of 2014."""

import json
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Set, Union

from ..errors import InputError
from ..files import replace_all_when_done
from .coco import CocoFile


class Counts(NamedTuple):
    """Numbers of images and of annotations in a split."""

    images: int
    annotations: int


# The same images and annotations as train2017 and val2017.
EXPECTED = {
    'trainval35k': Counts(118287, 860001),
    'minival2014': Counts(5000, 36781),
}


def make_trainval35k(
    ann_dir: Union[str, Path],
    minival: Union[str, Path],
    expected: Dict[str, Counts] = EXPECTED,
) -> Dict[str, Counts]:
    """Split the annotations of 2014 as the paper does.

    minival is 5,000 images of val2014; trainval35k is all the others and
    train2014. As both folders' images meet in one file, file names get the
    folder in front: ``train2014/COCO_train2014_000000000009.jpg``.

    Args:
        ann_dir (str | Path): Folder with ``instances_train2014.json`` and
            ``instances_val2014.json``; ``instances_trainval35k.json`` and
            ``instances_minival2014.json`` are written there.
        minival (str | Path): Which images are in minival: a COCO annotation
            file with exactly these images, such as ``instances_val2017.json``,
            or a text file with an image id or file name on each line.
        expected (dict): Counts that the results must have. Defaults to those
            of the real data.

    Returns:
        dict[str, Counts]: What was written.

    Raises:
        InputError: If a file is missing or not what it should be, or the
            counts differ. Nothing is written then.
    """
    ann_dir = Path(ann_dir)
    train, val = (
        _in_folder(_read(ann_dir / f'instances_{folder}.json'), folder)
        for folder in ('train2014', 'val2014')
    )
    ids = _read_ids(Path(minival))
    missing = ids - {image['id'] for image in val['images']}
    if missing:
        raise InputError(
            f'{len(missing)} of the {len(ids)} images in {minival} are not in '
            f'val2014, for example {min(missing)}: this is not a list of minival.'
        )
    parts = {
        'trainval35k': _merge(train, _select(val, ids, inside=False)),
        'minival2014': _select(val, ids, inside=True),
    }
    counts = {
        name: Counts(len(part['images']), len(part['annotations']))
        for name, part in parts.items()
    }
    for name, count in counts.items():
        if count != expected[name]:
            raise InputError(
                f'{name} would have {count.images} images and {count.annotations} '
                f'annotations, expected were {expected[name].images} and '
                f'{expected[name].annotations}: an annotation file or the list of '
                'minival is not the original one. Nothing was written.'
            )
    targets = [ann_dir / f'instances_{name}.json' for name in parts]
    with replace_all_when_done(targets) as paths:
        for path, part in zip(paths, parts.values()):
            path.write_text(json.dumps(part))
    return counts


def _read(path: Path) -> Dict:
    if not path.is_file():
        raise InputError(f'There is no annotation file {path}.')
    return CocoFile(str(path)).content


def _read_ids(path: Path) -> Set[int]:
    if path.suffix == '.json':
        return {image['id'] for image in _read(path)['images']}
    if not path.is_file():
        raise InputError(f'There is no list of minival {path}.')
    # COCO_val2014_000000000042.jpg, 000000000042.jpg or 42.
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    matches = [re.search(r'(\d+)(\.jpg)?$', line) for line in lines]
    if not all(matches):
        raise InputError(f'{path} should have an image id or file name on each line.')
    return {int(match[1]) for match in matches if match}


def _select(content: Dict, ids: Set[int], inside: bool) -> Dict:
    def wanted(image_id: int) -> bool:
        return (image_id in ids) == inside

    images: List[Dict] = [i for i in content['images'] if wanted(i['id'])]
    annotations = [a for a in content['annotations'] if wanted(a['image_id'])]
    return {**content, 'images': images, 'annotations': annotations}


def _in_folder(content: Dict, folder: str) -> Dict:
    images = [
        {**image, 'file_name': f'{folder}/{image["file_name"]}'}
        for image in content['images']
    ]
    return {**content, 'images': images}


def _merge(first: Dict, second: Dict) -> Dict:
    return {
        **first,
        'images': first['images'] + second['images'],
        'annotations': first['annotations'] + second['annotations'],
    }
