"""Predictions on images, drawn and written."""

from .images import find_images
from .predict import Failure, Prediction, predict_images
from .predictors import Found, open_checkpoint, open_exported_file

__all__ = [
    'Failure',
    'Found',
    'Prediction',
    'find_images',
    'open_checkpoint',
    'open_exported_file',
    'predict_images',
]
