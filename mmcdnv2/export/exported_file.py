"""An exported file that is ready to run."""

from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Union

import numpy as np

from ..errors import InputError
from .engines import check_packages, open_engine

if TYPE_CHECKING:
    from .metadata import Metadata


class ExportedFile:
    """An exported file, checked and loaded into an engine.

    Args:
        path (str | Path): The file.
        engine (str): 'onnxruntime' or 'openvino'. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        metadata (Metadata, optional): What was read of the file before. Defaults to
            reading and checking it.
        verify (bool): Whether to compare the file with its checksum. False accepts
            a file that was changed on purpose. Defaults to True.

    Raises:
        InputError: If the file or the engine cannot be used.

    Attributes:
        metadata (Metadata): What the file says of itself.
    """

    def __init__(
        self,
        path: Union[str, Path],
        engine: str = 'onnxruntime',
        threads: Optional[int] = None,
        metadata: Optional['Metadata'] = None,
        verify: bool = True,
    ) -> None:
        check_packages('onnx')
        # It needs the package, which may be missing where nothing is exported.
        from .metadata import read_metadata

        self.path = Path(path)
        self.metadata: Metadata = metadata or read_metadata(path, verify)
        native = self.metadata.operators == 'native'
        self._run = open_engine(path, engine, threads, native)

    def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Run.

        Args:
            images (np.ndarray): Shape (N, 3, H, W), of the type and with the
                channel order that the metadata tells. A file for float32 takes
                whole numbers, too.

        Returns:
            dict[str, np.ndarray]: Outputs by their names.

        Raises:
            InputError: If the file takes no images of this type, size or number.
        """
        self.check_pixels(images)
        given = self.metadata.input
        expected = dict(batch=1, height=given.size[0], width=given.size[1])
        actual = dict(
            zip(('batch', 'height', 'width'), images.shape[:1] + images.shape[2:])
        )
        wrong = [
            f'{name} {actual[name]} instead of {expected[name]}'
            for name in expected
            if name not in given.dynamic and actual[name] != expected[name]
        ]
        if wrong:
            raise InputError(
                f'{self.path} takes images of one size only, got '
                f'{" and ".join(wrong)}: resize them, or export it with these '
                'dimensions dynamic.'
            )
        return self._run(dict(images=np.ascontiguousarray(images, given.dtype)))

    def check_pixels(self, images: np.ndarray) -> None:
        """Refuse what are no images of the file's type, whatever their size.

        Args:
            images (np.ndarray): Shape (N, 3, H, W).

        Raises:
            InputError: If the shape or the type is another.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(
                f'{self.path} takes images of shape (N, 3, H, W), got {images.shape}.'
            )
        # Floats would become other pixels, 0 mostly, if they were turned into bytes.
        is_byte = self.metadata.input.dtype == 'uint8'
        if is_byte and images.dtype != np.uint8:
            raise InputError(
                f'{self.path} takes pixels from 0 to 255 as uint8, got {images.dtype}: '
                'leave out what makes them others, or export the file for float32.'
            )
        if not np.can_cast(images.dtype, np.float32, 'same_kind'):
            raise InputError(
                f'{self.path} takes pixels from 0 to 255 as float32, got '
                f'{images.dtype}.'
            )
