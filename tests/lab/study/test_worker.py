"""One training of the study, in this process."""

import multiprocessing
import shutil

import pytest
import torch
from mmengine.config import Config

from lab.study.plan import plan_study
from lab.study.worker import train
from mmcdnv2.checkpoint import load_checkpoint, weights_of


@pytest.fixture
def train_folder():
    """Train what a folder's config says; return the result and the images."""

    def train_it(folder):
        images = multiprocessing.Value('q', -1)
        return train(folder, 'none', 0, 'x', images), images.value

    return train_it


def prepare(settings, **options):
    """Leave a training's config in its folder, which is returned."""
    (training,) = plan_study(settings('none', options=options))
    training.folder.mkdir(parents=True)
    training.config().dump(training.folder / 'config.py')
    return training.folder


def test_the_error_is_top_1_whatever_the_config_tests(settings, train_folder):
    folder = prepare(settings, val_evaluator=[dict(type='SingleLabelMetric')])
    result, images = train_folder(folder)
    assert 0 <= result.error <= 100
    assert (images, result.resumed) == (60, False)


def test_what_is_resumed_is_in_the_folder(settings, train_folder, tmp_path):
    folder = prepare(settings)
    first, _ = train_folder(folder)
    # The study is moved, and its trainings start from other weights.
    moved = tmp_path / 'moved'
    shutil.move(str(folder), str(moved))
    weights = weights_of(load_checkpoint(moved / 'epoch_2.pth', trust=True))
    torch.save(weights, tmp_path / 'weights.pth')
    cfg = Config.fromfile(moved / 'config.py')
    cfg.load_from = str(tmp_path / 'weights.pth')
    cfg.dump(moved / 'config.py')
    again, images = train_folder(moved)
    assert (again.resumed, again.error, images) == (True, first.error, 60)
    # Nothing was to be trained.
    assert again.images_per_second == 0


@pytest.mark.parametrize('pointer', ['', '/not/there/epoch_1.pth'])
def test_a_pointer_to_nothing_is_no_checkpoint(settings, train_folder, pointer):
    folder = prepare(settings)
    (folder / 'last_checkpoint').write_text(pointer)
    result, images = train_folder(folder)
    assert (images, result.resumed) == (60, False)
