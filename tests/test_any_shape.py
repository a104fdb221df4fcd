"""Properties that random networks of any shape have, on any input."""

import any_shape
import pytest

LENGTHS = [False, pytest.param(True, marks=pytest.mark.long)]
length = pytest.mark.parametrize('is_long', LENGTHS, ids=['short', 'long'])


@length
def test_layers(is_long):
    any_shape.run_cases('layer', any_shape.layers(), any_shape.check_layer, is_long)


@length
def test_modules(is_long):
    any_shape.run_cases('module', any_shape.modules(), any_shape.check_module, is_long)


@length
def test_condensenets(is_long):
    strategy, check = any_shape.condensenets(), any_shape.check_network
    any_shape.run_cases('condensenet', strategy, check, is_long)


@length
def test_shufflenets(is_long):
    strategy, check = any_shape.shufflenets(), any_shape.check_network
    any_shape.run_cases('shufflenet', strategy, check, is_long)


@length
def test_classifiers(is_long):
    strategy, check = any_shape.classifiers(), any_shape.check_network
    any_shape.run_cases('classifier', strategy, check, is_long)


@length
def test_exports(is_long):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    strategy, check = any_shape.exports(), any_shape.check_exported
    any_shape.run_cases('exported', strategy, check, is_long)


@length
def test_settings(is_long):
    strategy, check = any_shape.settings_of_any_kind(), any_shape.check_refused
    any_shape.run_cases('refused', strategy, check, is_long)
