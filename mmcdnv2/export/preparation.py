"""What is done to the images in the graph before a network sees them."""

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import onnx
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ..errors import InputError


@dataclass(frozen=True)
class Preparation:
    """What a model's data preprocessor does to a batch.

    Attributes:
        mean (tuple[float], optional): Subtracted from each channel.
        std (tuple[float], optional): What each channel is divided by.
        swaps_channels (bool): Whether it turns BGR into RGB.
        divisor (int): What height and width are padded to a multiple of.
    """

    mean: Optional[Tuple[float, ...]]
    std: Optional[Tuple[float, ...]]
    swaps_channels: bool
    divisor: int

    @classmethod
    def of(cls, preprocessor: nn.Module) -> 'Preparation':
        """Read a data preprocessor.

        Args:
            preprocessor (nn.Module): MMDetection's or MMPreTrain's.

        Returns:
            Preparation: What it does.

        Raises:
            InputError: If it is another one, or pads by anything but zeros.
        """
        if type(preprocessor) is DetDataPreprocessor:
            normalises = preprocessor._enable_normalize
            swaps = preprocessor._channel_conversion
        elif type(preprocessor) is ClsDataPreprocessor:
            normalises = preprocessor._enable_normalize
            swaps = preprocessor.to_rgb
        else:
            raise InputError(
                f'The data preprocessor {type(preprocessor).__name__} cannot be '
                'exported; what can is DetDataPreprocessor and ClsDataPreprocessor.'
            )
        if preprocessor.pad_value:
            raise InputError(
                f'The data preprocessor pads by {preprocessor.pad_value}, which cannot '
                'be exported: use pad_value=0, or Pad in the test pipeline.'
            )
        mean = std = None
        if normalises and preprocessor.mean.numel() != 3:
            raise InputError(
                'The data preprocessor has a mean of '
                f'{preprocessor.mean.numel()} channels; images of 3 can be exported.'
            )
        if normalises:
            mean = tuple(preprocessor.mean.flatten().tolist())
            std = tuple(preprocessor.std.flatten().tolist())
        return cls(mean, std, bool(swaps), preprocessor.pad_size_divisor)

    def grey_levels(self) -> List[int]:
        """Return what comes nearest to zero behind the normalisation.

        Returns:
            list[int]: Of each channel of the images, in their order.
        """
        mean = self.mean or (0.0, 0.0, 0.0)
        return [round(each) for each in (mean[::-1] if self.swaps_channels else mean)]

    def padded(self, size: Tuple[int, int]) -> Tuple[int, int]:
        """Return a height and width with the padding."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return height, width

    def prepend(
        self,
        model: onnx.ModelProto,
        size: Tuple[int, int],
        dtype: str,
        dynamic: Sequence[str],
    ) -> None:
        """Let a graph take images as they are read.

        Args:
            model (onnx.ModelProto): Its input ``x`` becomes ``images``; if it has
                an input ``size``, that is computed from them.
            size (tuple[int]): Height and width of the images.
            dtype (str): 'uint8' or 'float32'.
            dynamic (Sequence[str]): Which of 'batch', 'height' and 'width' may
                be others.
        """
        graph = model.graph
        nodes: List[onnx.NodeProto] = []
        name = 'images'

        def constant(label: str, value: np.ndarray) -> str:
            label = f'prepare/{label}'
            graph.initializer.append(numpy_helper.from_array(value, label))
            return label

        def add(kind: str, *inputs: str, output: str = '', **attributes: Any) -> str:
            output = output or f'prepare/{kind.lower()}_{len(nodes)}'
            nodes.append(helper.make_node(kind, inputs, [output], **attributes))
            return output

        if dtype == 'uint8':
            name = add('Cast', name, to=TensorProto.FLOAT)
        if self.swaps_channels:
            # Not every engine can copy channels by an index.
            parts = [f'prepare/channel_{i}' for i in range(3)]
            ones = constant('ones', np.ones(3, np.int64))
            nodes.append(helper.make_node('Split', [name, ones], parts, axis=1))
            name = add('Concat', *parts[::-1], axis=1)
        if self.mean is not None:
            mean, std = (
                np.array(each, np.float64).reshape(1, 3, 1, 1)
                for each in (self.mean, self.std)
            )
            name = add('Mul', name, constant('scale', (1 / std).astype(np.float32)))
            name = add('Add', name, constant('shift', (-mean / std).astype(np.float32)))
        is_open = 'height' in dynamic or 'width' in dynamic
        needs_size = any(each.name == 'size' for each in graph.input)
        if is_open:
            sides = add('Shape', 'images', start=2, end=4)
        if self.divisor > 1 and (is_open or self.padded(size) != tuple(size)):
            zeros = constant('zeros', np.zeros(6, np.int64))
            if is_open:
                divisor = constant('divisor', np.array([self.divisor]))
                # Python's remainder, of the negative: how much is missing.
                missing = add('Mod', add('Neg', sides), divisor)
            else:
                missing = constant('missing', np.subtract(self.padded(size), size))
            pads = add('Concat', zeros, missing, axis=0)
            name = add('Pad', name, pads)
        if needs_size:
            if is_open:
                add('Cast', sides, output='size', to=TensorProto.FLOAT)
            else:
                value = np.array(size, np.float32)
                graph.initializer.append(numpy_helper.from_array(value, 'size'))
        add('Identity', name, output='x')
        for i, node in enumerate(nodes):
            graph.node.insert(i, node)
        del graph.input[:]
        dims: List[Union[str, int]] = ['batch', 3, 'height', 'width']
        for i, side in ((0, 1), (2, size[0]), (3, size[1])):
            if dims[i] not in dynamic:
                dims[i] = side
        kind = TensorProto.UINT8 if dtype == 'uint8' else TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info('images', kind, dims))
        # What the tracer noted of sizes may name others.
        del graph.value_info[:]
