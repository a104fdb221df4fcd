"""Which checkpoint a training resumes from, and that each is written whole."""

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from toy import make_runner

from mmcdnv2.engine import TrainingRunner
from mmcdnv2.engine.resume import find_last_checkpoint, prepare_resume
from mmcdnv2.errors import ConfigError, InputError, UntrustedError


@pytest.fixture
def work_dir(tmp_path):
    """A finished training of four epochs, in the order of their times."""
    make_runner(tmp_path).train()
    for epoch in range(1, 5):
        os.utime(tmp_path / f'epoch_{epoch}.pth', (epoch, epoch))
    return tmp_path


def cut(path, fraction=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


def test_the_last_one(work_dir):
    assert find_last_checkpoint(work_dir)[0] == str(work_dir / 'epoch_4.pth')


@pytest.mark.parametrize('damage', ['cut', 'empty', 'gone', 'weights'])
def test_the_last_whole_one(work_dir, damage):
    cut(work_dir / 'epoch_3.pth', 0.99)
    last = work_dir / 'epoch_4.pth'
    if damage == 'cut':
        cut(last)
    elif damage == 'empty':
        last.write_bytes(b'')
    elif damage == 'gone':
        last.unlink()
    else:
        torch.save(dict(state_dict={}), last)
    assert find_last_checkpoint(work_dir)[0] == str(work_dir / 'epoch_2.pth')


@pytest.mark.parametrize('note', ['', 'epoch_9.pth', None])
def test_a_note_that_was_cut_off(work_dir, note):
    if note is None:
        (work_dir / 'last_checkpoint').unlink()
    else:
        (work_dir / 'last_checkpoint').write_text(note)
    assert find_last_checkpoint(work_dir)[0] == str(work_dir / 'epoch_4.pth')


def test_a_folder_of_checkpoints_of_its_own(work_dir):
    other = work_dir / 'checkpoints'
    other.mkdir()
    for epoch in (2, 4):
        os.replace(work_dir / f'epoch_{epoch}.pth', other / f'epoch_{epoch}.pth')
    cut(other / 'epoch_4.pth')
    (work_dir / 'last_checkpoint').write_text(str(other / 'epoch_4.pth'))
    assert find_last_checkpoint(work_dir)[0] == str(work_dir / 'epoch_3.pth')
    os.utime(other / 'epoch_2.pth', (9, 9))
    assert find_last_checkpoint(work_dir)[0] == str(other / 'epoch_2.pth')


class Code:
    def __reduce__(self):
        return os.path.exists, ('',)


def test_code_is_not_passed_over(work_dir):
    torch.save(dict(meta=dict(iter=1), optimizer=Code()), work_dir / 'epoch_4.pth')
    with pytest.raises(UntrustedError):
        find_last_checkpoint(work_dir)


def test_nothing_to_resume(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    prepare_resume(cfg)
    assert (cfg.resume, cfg.load_from) == (False, None)


def test_never_starts_over_where_checkpoints_are(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK')
    torch.save(dict(state_dict={}), tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    with pytest.raises(InputError) as raised:
        prepare_resume(cfg)
    for reason in (
        'There is no checkpoint /elsewhere/epoch_3.pth.',
        f'{tmp_path}/epoch_1.pth is damaged or not a checkpoint.',
        f'{tmp_path}/epoch_2.pth holds weights only.',
    ):
        assert reason in str(raised.value)


def test_the_seed_comes_back(work_dir):
    path = work_dir / 'epoch_4.pth'
    seed = torch.load(path, weights_only=False)['meta']['seed']
    cfg = Config(dict(work_dir=str(work_dir), resume=True))
    prepare_resume(cfg)
    assert (cfg.load_from, cfg.randomness) == (str(path), dict(seed=seed))
    cfg.randomness = dict(seed=7, deterministic=True)
    prepare_resume(cfg)
    assert cfg.randomness == dict(seed=7, deterministic=True)


def test_weights_alone_are_refused(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict={}), path)
    cfg = Config(dict(work_dir=str(tmp_path), resume=True, load_from=str(path)))
    with pytest.raises(ConfigError, match='weights only'):
        prepare_resume(cfg)


def test_what_does_not_fit_is_not_resumed(work_dir):
    path = work_dir / 'epoch_4.pth'
    content = torch.load(path, weights_only=False)
    del content['state_dict']['lgc.mask']
    torch.save(content, path)
    settings = dict(kind=TrainingRunner, load_from=str(path))
    with pytest.raises(InputError, match='does not hold the weights of this network'):
        make_runner(work_dir, resume=True, **settings).train()
    # Weights to start from need not fit, as those for other classes.
    make_runner(work_dir, **settings).train()


def test_a_full_disk_leaves_the_checkpoint_as_it_was(work_dir, monkeypatch):
    before = (work_dir / 'epoch_1.pth').read_bytes()

    def put_half(self, content, path):
        with open(path, 'wb') as file:
            file.write(content[: len(content) // 2])
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(LocalBackend, 'put', put_half)
    with pytest.raises(
        InputError, match='epoch_1.pth cannot be written .No space left'
    ):
        make_runner(work_dir, kind=TrainingRunner).train()
    assert (work_dir / 'epoch_1.pth').read_bytes() == before
    assert not list(work_dir.glob('.*'))


def test_other_storage_is_left_to_mmengine(tmp_path, monkeypatch):
    written = []

    class Storage(LocalBackend):
        pass

    monkeypatch.setattr(
        Storage, 'put', lambda self, content, path: written.append(path), raising=False
    )
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.get_file_backend', lambda *a, **k: Storage()
    )
    monkeypatch.setattr('mmcdnv2.engine.runner.get_file_backend', lambda *a, **k: None)
    make_runner(tmp_path, kind=TrainingRunner).train()
    assert [os.path.basename(path) for path in written] == [
        f'epoch_{epoch}.pth' for epoch in range(1, 5)
    ]
