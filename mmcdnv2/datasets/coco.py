"""Reads COCO annotation files and predicts what MMDetection does with them."""

import json
import math
from collections import Counter
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ..errors import DataError, in_one_line

_LONGEST = 160
_ADVICE = 'correct the file or use another one'
# JSON has no integers, so whole numbers may come as 1.0.
_ID = (int, float, str)
# Boxes are rounded: one may pass the border of its image by so many pixels.
_TOLERANCE = 1.0

# What MMDetection does with an annotation.
USED, IGNORED = 'that are used', 'that are ignored'
CROSSING = 'whose box crosses the border of its image'
OUTSIDE = 'whose box lies outside its image'
TINY = 'whose box is less than a pixel wide or high or has no area'
OTHER = 'of categories that are not asked for'
SHORT = 'without a polygon of three points'
CROWD = 'that are crowds'
NO_MASK = 'without the segmentation that is loaded, a list of polygons or an RLE'
# The share of the annotations up to which a fate is usual, and what follows from it.
_FINDINGS = {
    CROSSING: (0.01, 'unless the pipeline clips them, they are used as they are'),
    OUTSIDE: (0.0, 'MMDetection drops them'),
    TINY: (0.01, 'MMDetection drops them'),
    OTHER: (0.01, 'MMDetection drops them'),
    SHORT: (0.01, 'MMDetection drops them'),
    CROWD: (0.5, 'MMDetection does not train on them'),
}


class CocoFile:
    """A COCO annotation file whose entries have ids and refer to each other.

    Args:
        path (str): The file.

    Attributes:
        path (str): The file.
        content (dict): All that the file holds.
        images (list[dict]): Its images.
        annotations (list[dict]): Its annotations; none if it has no such list.
        categories (list[dict]): Its categories.

    Raises:
        DataError: If it is not such a file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.content = self._read()
        self.content.setdefault('annotations', [])
        self.images = self._entries('images')
        self.annotations = self._entries('annotations')
        self.categories = self._entries('categories')
        if not self.images:
            raise DataError(f'{self.path} has no images: {_ADVICE}.')
        for kind, key in (('images', 'file_name'), ('categories', 'name')):
            bad = [e for e in self.content[kind] if not isinstance(e.get(key), str)]
            self._reject(kind, bad, f'without a {key}')
        self._image_of = {image['id']: image for image in self.images}
        self._name_of = {each['id']: each['name'] for each in self.categories}
        places: List[Tuple[str, Dict]] = [
            ('image', self._image_of),
            ('category', self._name_of),
        ]
        for what, ids in places:
            of = [(a, a.get(f'{what}_id')) for a in self.annotations]
            bad = [a for a, each in of if type(each) not in _ID or each not in ids]
            self._reject('annotations', bad, f'whose {what} does not exist')

    def _read(self) -> Dict:
        try:
            # In the encoding in which pycocotools will read it.
            with open(self.path) as file:
                content = json.load(file)
        except OSError as error:
            raise DataError(
                f'{self.path} cannot be read ({error.strerror}): {_ADVICE}.'
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f'{self.path} is empty, damaged or not JSON ({in_one_line(error)}): '
                'get it again or use another one.'
            ) from error
        if not isinstance(content, dict):
            raise DataError(
                f'{self.path} is not a COCO annotation file: an object with images, '
                'annotations and categories was expected.'
            )
        return content

    def _entries(self, kind: str) -> List[Dict]:
        entries = self.content.get(kind)
        if not isinstance(entries, list):
            raise DataError(
                f'{self.path} is not a COCO annotation file: a list was expected as '
                f'its {kind}.'
            )
        bad = [e for e in entries if not isinstance(e, dict)]
        self._reject(kind, bad, 'that are no objects')
        bad = [e for e in entries if type(e.get('id')) not in _ID]
        self._reject(kind, bad, 'without an id, a number or text')
        counts = Counter(entry['id'] for entry in entries)
        if len(counts) < len(entries):
            bad = [e for e in entries if counts[e['id']] > 1]
            self._reject(kind, bad, 'whose id another one has, too')
        return entries

    def check_classes(self, classes: Sequence[str], loader: str) -> None:
        """Reject a file whose labels MMDetection would take for others.

        MMDetection numbers the categories that the data set names in the order
        of the file, and names the numbers in the order of the data set.

        Args:
            classes (Sequence[str]): Names of the data set's classes.
            loader (str): Name of its data loader.

        Raises:
            DataError: If one of them is missing, there twice, or they are in
                another order.
        """
        if isinstance(classes, str):
            raise DataError(
                f'{loader} has the text {classes!r} as its classes: write a tuple as '
                f'metainfo.classes, ({classes!r},) if there is only one.'
            )
        names = [category['name'] for category in self.categories]
        used = [name for name in names if name in set(classes)]
        if used == list(classes):
            return
        if lacking := [name for name in classes if name not in names]:
            fault = f'lacks {len(lacking)} of the {len(classes)} classes of {loader}, '
            fault += f'for example {lacking[0]!r}'
        elif len(used) > len(classes):
            fault = f'has the name {Counter(used).most_common(1)[0][0]!r} twice'
        else:
            name, other = next((a, b) for a, b in zip(used, classes) if a != b)
            fault = f'has the classes of {loader} in another order, {name!r} instead '
            fault += f'of {other!r}'
        listed = ', '.join(map(repr, names[:5])) + (', ...' if names[5:] else '')
        raise DataError(
            f'{self.path} {fault}, so MMDetection would take classes for each other: '
            f"set {loader}.dataset.metainfo.classes to the file's, ({listed}), and the "
            "model's num_classes to their number, or use another file."
        )

    def fates(self, classes: Sequence[str], masks: Optional[Dict]) -> List[str]:
        """Predict what MMDetection's data set and pipeline do with annotations.

        Args:
            classes (Sequence[str]): Names of the data set's classes.
            masks (dict, optional): Settings of the ``LoadAnnotations`` that
                loads masks, if there is one.

        Returns:
            list[str]: ``USED``, ``CROSSING``, which is used too, or another
            constant of this module for each annotation.

        Raises:
            DataError: If an image has no size, or an annotation lacks what
                MMDetection reads.
        """
        sizes = [
            (image, image.get('width'), image.get('height')) for image in self.images
        ]
        bad = [i for i, *size in sizes if not all(map(_is_positive, size))]
        self._reject('images', bad, 'without a width and height above 0')
        bad = [a for a in self.annotations if not (a.get('ignore') or _has_box(a))]
        self._reject(
            'annotations',
            bad,
            'without a bbox (finite left, top, width and height) and an area',
        )
        # Text such as "0" counts as true.
        bad = [a for a in self.annotations if isinstance(a.get('iscrowd'), str)]
        self._reject('annotations', bad, 'whose iscrowd is text')
        wanted = set(classes)
        fates = [self._fate(each, wanted, masks) for each in self.annotations]
        bad = [a for a, fate in zip(self.annotations, fates) if fate == NO_MASK]
        self._reject('annotations', bad, NO_MASK)
        return fates

    def _fate(self, annotation: Dict, wanted: Set[str], masks: Optional[Dict]) -> str:
        if annotation.get('ignore'):
            return IGNORED
        if self._name_of[annotation['category_id']] not in wanted:
            return OTHER
        left, top, width, height = annotation['bbox']
        if min(width, height) < 1 or not annotation['area']:
            return TINY
        image = self._image_of[annotation['image_id']]
        right, bottom = left + width, top + height
        if left >= image['width'] or top >= image['height'] or min(right, bottom) <= 0:
            return OUTSIDE
        segmentation = annotation.get('segmentation')
        if masks is not None and not _is_segmentation(segmentation):
            return NO_MASK
        if annotation.get('iscrowd'):
            return CROWD
        if masks is not None and not _has_area(segmentation, masks):
            return SHORT
        beyond = max(-left, -top, right - image['width'], bottom - image['height'])
        return CROSSING if beyond > _TOLERANCE else USED

    def findings(self, fates: List[str]) -> Iterator[Tuple[str, bool]]:
        """Describe what is odd in the file but taken by MMDetection.

        Args:
            fates (list[str]): What :meth:`fates` returned.

        Yields:
            tuple[str, bool]: A sentence, and whether it is worth a warning.
        """
        for fate, (few, outcome) in _FINDINGS.items():
            found = [a for a, each in zip(self.annotations, fates) if each == fate]
            if found:
                sentence = f'{self._described("annotations", found, fate)}: {outcome}.'
                yield sentence, len(found) > few * len(fates)
        names = Counter(image['file_name'] for image in self.images)
        if found := [image for image in self.images if names[image['file_name']] > 1]:
            words = self._described('images', found, 'whose file_name another one has')
            yield f"{words}: each is used without the other's annotations.", True

    def kept_images(
        self, classes: Sequence[str], filter_cfg: Optional[Dict]
    ) -> List[Dict]:
        """Return the images that MMDetection's filter keeps.

        Args:
            classes (Sequence[str]): Names of the data set's classes.
            filter_cfg (dict, optional): The data set's filter.

        Returns:
            list[dict]: The images.
        """
        settings = filter_cfg or {}
        least = settings.get('min_size', 0)
        kept = [i for i in self.images if min(i['width'], i['height']) >= least]
        if settings.get('filter_empty_gt', False):
            ids = {annotation['image_id'] for annotation in self._named(classes)}
            kept = [image for image in kept if image['id'] in ids]
        return kept

    def _named(self, classes: Sequence[str]) -> List[Dict]:
        """Return the annotations of these classes."""
        ids = {each for each, name in self._name_of.items() if name in set(classes)}
        return [a for a in self.annotations if a['category_id'] in ids]

    def check_evaluation(
        self, classes: Sequence[str], with_masks: bool, is_converted: bool
    ) -> bool:
        """Reject a file by which pycocotools cannot judge detections.

        Args:
            classes (Sequence[str]): Names of the data set's classes.
            with_masks (bool): Whether masks are evaluated.
            is_converted (bool): Whether MMDetection writes annotations of its
                own, since the metric has no ``ann_file``.

        Returns:
            bool: Whether there is any annotation of these classes.

        Raises:
            DataError: If the evaluation would stop or judge nothing.
        """
        for kind in ('images', 'categories'):
            texts = [e for e in self.content[kind] if isinstance(e['id'], str)]
            if len(texts) < len(self.content[kind]):
                self._reject(kind, texts, 'with text as id, while others have numbers')
        truths = self._named(classes)
        if not is_converted:
            # NumPy takes "7" for the number 7.
            bad = [
                a for a in truths if isinstance(a['id'], str) and not a['id'].isdigit()
            ]
            self._reject('annotations', bad, 'without a number as id, to evaluate')
            bad = [a for a in truths if not isinstance(a.get('iscrowd'), (int, float))]
            self._reject('annotations', bad, 'without iscrowd, 0 or 1, to evaluate')
            bad = [a for a in truths if not _has_box(a)]
            self._reject('annotations', bad, 'without a bbox and an area, to evaluate')
        if with_masks:
            masks = [(a, a.get('segmentation')) for a in truths]
            # Pycocotools tells polygons from boxes by the length of the first.
            bad = [a for a, mask in masks if not _is_segmentation(mask, least=5)]
            self._reject('annotations', bad, 'without a segmentation, to evaluate')
        if truths and all(a.get('iscrowd') for a in truths):
            self._reject('annotations', truths, 'to evaluate, all of which are crowds')
        return bool(truths)

    def lacks_images_of(self, other: 'CocoFile') -> List[Any]:
        """Return the ids of another file's images that this one does not have."""
        return [each for each in other._image_of if each not in self._image_of]

    def _reject(self, kind: str, bad: List, words: str) -> None:
        if bad:
            raise DataError(f'{self._described(kind, bad, words)}: {_ADVICE}.')

    def _described(self, kind: str, found: List, words: str) -> str:
        first = found[0]
        if isinstance(first, dict):
            # A segmentation would fill the screen.
            first = {k: value for k, value in first.items() if k != 'segmentation'}
        text = json.dumps(first)
        shown = text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'
        total = len(self.content[kind])
        return (
            f'{self.path} has {kind} {words}, {len(found)} of {total}, for example '
            f'{shown}'
        )


def renumber_annotations(api: Any) -> bool:
    """Number the annotations from 1 if one of them has the id 0.

    COCOeval takes a detection that is matched with 0 for one without a match.

    Args:
        api (pycocotools.coco.COCO): The annotations that detections are compared
            with. Their file remains as it is.

    Returns:
        bool: Whether they were numbered.
    """
    # Those of panoptic data are lists, and COCOeval does not read them.
    if not any(isinstance(api.anns.get(zero), dict) for zero in (0, '0')):
        return False
    annotations = api.dataset['annotations']
    for number, annotation in enumerate(annotations, 1):
        annotation['id'] = number
    api.anns = {annotation['id']: annotation for annotation in annotations}
    return True


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_finite(numbers: List) -> bool:
    try:
        # NaN and infinity remain in any sum, and text cannot be added.
        return abs(sum(numbers)) < math.inf
    except TypeError:
        return False


def _has_box(annotation: Dict) -> bool:
    box, area = annotation.get('bbox'), annotation.get('area')
    if not (isinstance(box, list) and len(box) == 4 and _is_finite([*box, area])):
        return False
    return min(*box[2:], area) >= 0


def _is_segmentation(value: Any, least: int = 0) -> bool:
    """Return whether MMDetection and pycocotools can read a segmentation."""
    if isinstance(value, dict):
        return 'size' in value and isinstance(value.get('counts'), (list, str))
    if not isinstance(value, list) or not value:
        return False
    are_polygons = all(isinstance(each, list) and _is_finite(each) for each in value)
    return are_polygons and len(value[0]) >= least


def _has_area(segmentation: Any, masks: Dict) -> bool:
    """Return whether ``LoadAnnotations`` of these settings keeps a segmentation."""
    if isinstance(segmentation, dict):
        return masks.get('poly2mask', True)
    return any(len(each) >= 6 and len(each) % 2 == 0 for each in segmentation)
