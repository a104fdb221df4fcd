"""Measure and compare the networks: benchmark, study, connection maps, model index.

The laboratory is part of a clone, not of the wheel. ``tools/analysis_tools`` and the
demo run it; nothing in ``mmcdnv2`` imports it.
"""
