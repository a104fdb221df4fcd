"""Measure and compare the networks: benchmark, study, connection maps, model index.

This package is in a clone, not in the wheel. ``tools/analysis_tools`` and the demo
use it; ``mmcdnv2`` does not import it.
"""
