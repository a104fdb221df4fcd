"""Export to ONNX: graphs, what they say of themselves, and engines that run them."""

from .export import ExportReport, export_checkpoint
from .exported_file import ExportedFile

__all__ = ['ExportReport', 'ExportedFile', 'export_checkpoint']
