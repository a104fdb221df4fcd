"""Runs networks that mmcdnv2 exported, in ONNX Runtime and without PyTorch."""

from .errors import ImageError, ModelError
from .model import Classifier, Detector
from .results import Classification, ClassScore, Detection, Detections
from .session import library_path, session_options

__all__ = [
    'ClassScore',
    'Classification',
    'Classifier',
    'Detection',
    'Detections',
    'Detector',
    'ImageError',
    'ModelError',
    'library_path',
    'session_options',
]
