"""Reads COCO annotation files and finds what is wrong in them."""

import gc
import json
import math
import os
from contextlib import contextmanager
from itertools import chain
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import DataError, in_one_line

# What a message shows of an entry; a segmentation would fill the screen.
_SHOWN = (
    'id',
    'image_id',
    'category_id',
    'name',
    'file_name',
    'width',
    'height',
    'bbox',
    'area',
)
_LONGEST = 160
_ADVICE = 'correct the file or use another one'
# JSON has no integers, so whole numbers may come as 1.0.
_ID = (int, float, str)
_NUMBER = (int, float)
# How far in pixels a box may pass the border unmentioned: real ones are rounded.
_TOLERANCE = 1.0
# COCO's own files have a few boxes without a width: more than these are serious.
_FEW = 0.01


class Finding(NamedTuple):
    """Something odd in a file that MMDetection takes nevertheless.

    Attributes:
        sentence (str): What, how many, the first, and what becomes of them.
        is_serious (bool): Whether a file that is as it should be has no such
            entries, or not as many.
    """

    sentence: str
    is_serious: bool


class CocoFile:
    """A COCO annotation file whose entries are complete and refer to each other.

    Its boxes and segmentations are not looked at before they are asked for.

    Args:
        path (str): The file.
        needs_annotations (bool): Whether one without a list of annotations, as
            those of test images are, is refused. Defaults to True.

    Attributes:
        path (str): The file.
        images (list[dict]): Its images.
        annotations (list[dict]): Its annotations.
        categories (list[dict]): Its categories.

    Raises:
        DataError: If it is not such a file.
    """

    def __init__(self, path: str, needs_annotations: bool = True) -> None:
        self.path = path
        self.content = self._read()
        self.images = self._entries('images', True)
        self.categories = self._entries('categories', True)
        self.annotations = self._entries('annotations', needs_annotations)
        self._image_ids = self._unique_ids('images')
        self._category_ids = self._unique_ids('categories')
        self._unique_ids('annotations')
        self._column('images', 'file_name', (str,), 'that is text')
        self.class_names: List[str] = self._column(
            'categories', 'name', (str,), 'that is text'
        )
        # Where the image and the category of each annotation are.
        self._image_of = self._refer('image_id', self._image_ids, 'image')
        self._category_of = self._refer('category_id', self._category_ids, 'category')

    def _read(self) -> Dict:
        try:
            # In the encoding in which pycocotools will read it.
            with open(self.path) as file, _without_garbage_collection():
                content = json.load(file)
        except OSError as error:
            raise DataError(
                f'{self.path} cannot be read ({error.strerror}): {_ADVICE}.'
            ) from error
        except (ValueError, RecursionError) as error:
            if not os.path.getsize(self.path):
                raise DataError(f'{self.path} is empty: {_ADVICE}.') from error
            raise DataError(
                f'{self.path} is damaged or is not JSON ({in_one_line(error)}): get it '
                'again or use another one.'
            ) from error
        if not isinstance(content, dict):
            raise DataError(
                f'{self.path} is not a COCO annotation file: an object with images, '
                f'annotations and categories was expected, it holds '
                f'{_kind(content)}.'
            )
        return content

    def _entries(self, kind: str, is_needed: bool) -> List[Dict]:
        if kind not in self.content and not is_needed:
            return []
        entries = self.content.get(kind)
        if not isinstance(entries, list):
            found = _kind(entries) if kind in self.content else 'nothing'
            raise DataError(
                f'{self.path} is not a COCO annotation file: a list was expected as '
                f'its {kind}, there is {found}.'
            )
        if kind != 'annotations' and not entries:
            raise DataError(f'{self.path} has no {kind}: {_ADVICE}.')
        if set(map(type, entries)) - {dict}:
            bad = [i for i, entry in enumerate(entries) if type(entry) is not dict]
            raise self._refusal(kind, bad, 'that are no objects', entries)
        return entries

    def _column(
        self, kind: str, key: str, types: Tuple[type, ...], words: str
    ) -> List[Any]:
        """Return the values of a key, which all entries of a kind must have."""
        entries = getattr(self, kind)
        values = [entry.get(key) for entry in entries]
        if set(map(type, values)) - set(types):
            bad = [i for i, value in enumerate(values) if type(value) not in types]
            raise self._refusal(kind, bad, f'without {_article(key)} {words}')
        return values

    def _ids(self, kind: str, key: str) -> List[Any]:
        words = 'that is a whole number or text'
        ids = self._column(kind, key, _ID, words)
        if float in set(map(type, ids)):
            bad = [
                i for i, x in enumerate(ids) if type(x) is float and not x.is_integer()
            ]
            if bad:
                raise self._refusal(kind, bad, f'without {_article(key)} {words}')
        return ids

    def _unique_ids(self, kind: str) -> Dict[Any, int]:
        """Return where the entry of each id is."""
        ids = self._ids(kind, 'id')
        places = dict(zip(ids, range(len(ids))))
        if len(places) < len(ids):
            # The last one of an id is the one that is in the table.
            bad = [i for i, each in enumerate(ids) if places[each] != i]
            raise self._refusal(kind, bad, 'whose id another one has, too')
        return places

    def _refer(self, key: str, places: Dict[Any, int], what: str) -> np.ndarray:
        """Return where the entry is that each annotation refers to."""
        ids = self._ids('annotations', key)
        found = np.fromiter((places.get(each, -1) for each in ids), int, len(ids))
        bad = np.flatnonzero(found < 0)
        if len(bad):
            words = f'of {_article(what)} that it does not have'
            raise self._refusal('annotations', bad, words)
        return found

    def check_classes(self, classes: Sequence[str], loader: str) -> None:
        """Refuse a file whose labels MMDetection would take for others.

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
        there = set(self.class_names)
        lacking = [name for name in classes if name not in there]
        advice = (
            f"set {loader}.dataset.metainfo.classes to the file's, "
            f"{_listed(self.class_names)}, and the model's num_classes to their "
            'number, or use another file'
        )
        if lacking:
            raise DataError(
                f'{self.path} lacks {len(lacking)} of the {len(classes)} classes that '
                f'{loader} asks for, for example {lacking[0]!r}, and the others would '
                f'be taken for each other: {advice}.'
            )
        wanted = set(classes)
        used = [name for name in self.class_names if name in wanted]
        twice = [name for i, name in enumerate(used) if name in used[:i]]
        if twice:
            raise DataError(
                f'{self.path} has more than one category {twice[0]!r}: {_ADVICE}.'
            )
        for name, expected in zip(used, classes):
            if name != expected:
                raise DataError(
                    f'{self.path} has the classes of {loader} in another order, the '
                    f'first {name!r} instead of {expected!r}, and they would be taken '
                    f'for each other: {advice}.'
                )

    def image_sizes(self) -> np.ndarray:
        """Return width and height of each image.

        Raises:
            DataError: If one has none that is a number above zero.
        """
        words = 'that is a number above 0'
        columns = []
        for key in ('width', 'height'):
            values = _numbers(self._column('images', key, _NUMBER, words))
            bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            if len(bad):
                raise self._refusal('images', bad, f'without {_article(key)} {words}')
            columns.append(values)
        return np.stack(columns, axis=1)

    def useful(self, classes: Sequence[str]) -> Tuple[np.ndarray, List[Finding]]:
        """Find the annotations that MMDetection trains on.

        Args:
            classes (Sequence[str]): Names of the data set's classes.

        Returns:
            tuple[np.ndarray, list[Finding]]: For each annotation whether it is
            used, and why others are not or are odd.

        Raises:
            DataError: If a box or an area is not one.
        """
        sizes = self.image_sizes()
        if not self.annotations:
            return np.zeros(0, bool), []
        # MMDetection looks at nothing else in the others.
        read = np.flatnonzero([not a.get('ignore') for a in self.annotations])
        boxes, areas = self._boxes(read)
        width, height = sizes[self._image_of[read]].T
        left, top = boxes[:, 0], boxes[:, 1]
        right, bottom = left + boxes[:, 2], top + boxes[:, 3]
        is_tiny = (boxes[:, 2:] < 1).any(axis=1) | (areas == 0)
        is_outside = (left >= width) | (top >= height) | (right <= 0) | (bottom <= 0)
        passes = np.max([-left, -top, right - width, bottom - height], axis=0)
        is_named = self._is_named(classes)
        is_used = np.zeros(len(self.annotations), bool)
        is_used[read] = ~(is_outside | is_tiny)
        is_used &= is_named & [not a.get('iscrowd') for a in self.annotations]
        findings = [
            self._finding(
                np.flatnonzero(~is_named),
                'of categories that are not asked for',
                'MMDetection leaves them out',
            ),
            self._finding(
                read[is_outside],
                'whose box lies outside of its image',
                'MMDetection leaves them out; a box is left, top, width and height',
                few=0,
            ),
            self._finding(
                read[is_tiny & ~is_outside],
                'whose box is less than a pixel wide or high or has no area',
                'MMDetection leaves them out',
            ),
            self._finding(
                read[(passes > _TOLERANCE) & ~is_outside & ~is_tiny],
                'whose box passes the border of its image',
                'unless the pipeline clips them, they are trained on as they are; a '
                'box is left, top, width and height',
            ),
        ]
        return is_used, list(filter(None, findings))

    def _is_named(self, classes: Sequence[str]) -> np.ndarray:
        """Return for each annotation whether its category is one of the classes."""
        wanted = set(classes)
        return np.array([n in wanted for n in self.class_names])[self._category_of]

    def _boxes(self, read: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the boxes and areas of the annotations at these places."""
        annotations = [self.annotations[i] for i in read]
        boxes = [entry.get('bbox') for entry in annotations]

        def is_box(box: Any) -> bool:
            return (
                type(box) is list
                and len(box) == 4
                and all(type(number) in _NUMBER for number in box)
            )

        if (
            set(map(type, boxes)) - {list}
            or set(map(len, boxes)) - {4}
            or set(map(type, chain.from_iterable(boxes))) - set(_NUMBER)
        ):
            bad = read[[not is_box(box) for box in boxes]]
            words = 'whose bbox is not a list of four numbers'
            raise self._refusal('annotations', bad, words)
        corners = _numbers(list(chain.from_iterable(boxes))).reshape(-1, 4)
        areas = [entry.get('area') for entry in annotations]
        if set(map(type, areas)) - set(_NUMBER):
            bad = read[[type(area) not in _NUMBER for area in areas]]
            words = 'without an area that is a number'
            raise self._refusal('annotations', bad, words)
        area = _numbers(areas)
        for is_bad, words in (
            (~np.isfinite(corners).all(axis=1), 'whose bbox is infinite or NaN'),
            ((corners[:, 2:] < 0).any(axis=1), 'whose box has a negative size'),
            (~(np.isfinite(area) & (area >= 0)), 'whose area is not a number from 0'),
        ):
            if is_bad.any():
                raise self._refusal('annotations', read[is_bad], words)
        return corners, area

    def kept_images(
        self, classes: Sequence[str], filter_cfg: Optional[Dict]
    ) -> np.ndarray:
        """Find the images that MMDetection trains on.

        Args:
            classes (Sequence[str]): Names of the data set's classes.
            filter_cfg (dict, optional): The data set's.

        Returns:
            np.ndarray: For each image whether it is kept.
        """
        kept = np.ones(len(self.images), bool)
        if filter_cfg and filter_cfg.get('filter_empty_gt', False):
            kept[:] = False
            kept[self._image_of[self._is_named(classes)]] = True
        if filter_cfg:
            kept &= self.image_sizes().min(axis=1) >= filter_cfg.get('min_size', 0)
        return kept

    def is_trainable(self, is_used: np.ndarray, kept: np.ndarray) -> bool:
        """Say whether any of the annotations that are used is of a kept image."""
        return bool(kept[self._image_of[is_used]].any())

    def repeated_names(self) -> List[Finding]:
        """Find images that are listed more than once, under ids of their own."""
        names = [image['file_name'] for image in self.images]
        places = dict(zip(names, range(len(names))))
        bad = [i for i, name in enumerate(names) if places[name] != i]
        finding = self._finding(
            bad,
            'whose file_name another one has, too',
            'each is trained on without the annotations of the other',
            'images',
            few=0,
        )
        return [finding] if finding else []

    def lacks_images_of(self, other: 'CocoFile') -> List[Any]:
        """Return the ids of another file's images that this one does not have."""
        return [each for each in other._image_ids if each not in self._image_ids]

    def _refusal(
        self, kind: str, bad: Any, words: str, entries: Optional[List] = None
    ) -> DataError:
        return DataError(f'{self._described(kind, bad, words, entries)}: {_ADVICE}.')

    def _finding(
        self,
        bad: Any,
        words: str,
        outcome: str,
        kind: str = 'annotations',
        few: float = _FEW,
    ) -> Optional[Finding]:
        if not len(bad):
            return None
        is_serious = len(bad) > few * len(getattr(self, kind))
        return Finding(f'{self._described(kind, bad, words)}: {outcome}.', is_serious)

    def _described(
        self, kind: str, bad: Any, words: str, entries: Optional[List] = None
    ) -> str:
        entries = getattr(self, kind) if entries is None else entries
        first = int(bad[0])
        return (
            f'{self.path} has {kind} {words}, {len(bad)} of {len(entries)}, for '
            f'example number {first + 1}, {_shown(entries[first])}'
        )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Spare the search for circles among millions of new objects that have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _numbers(values: List) -> np.ndarray:
    """Return numbers of any size; what no float can hold becomes infinite."""
    try:
        return np.array(values, float)
    except OverflowError:
        return np.array([_number(value) for value in values], float)


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(entry: Any) -> str:
    if isinstance(entry, dict):
        entry = {key: entry[key] for key in _SHOWN if key in entry}
    text = json.dumps(entry)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def _listed(names: List[str]) -> str:
    few = ', '.join(map(repr, names[:5]))
    return f'({few}, ...)' if len(names) > 5 else f'({few})'


def _article(word: str) -> str:
    return f'an {word}' if word[0] in 'aeiou' else f'a {word}'


def _kind(value: Any) -> str:
    names = {list: 'a list', dict: 'an object', str: 'text', type(None): 'null'}
    return names.get(type(value), 'a number')
