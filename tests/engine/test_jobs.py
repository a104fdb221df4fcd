"""Trainings that are killed, and trainings of several processes."""

import json
import signal

import pytest
from training_jobs import differences, train, write_config

from mmcdnv2.engine.resume import find_last_checkpoint


def test_killed_while_a_checkpoint_is_written(tiny_configs, tmp_path):
    """It resumes from the one before and ends as the run that nobody killed."""
    settings = dict(
        train_cfg=dict(max_epochs=4, val_interval=4),
        default_hooks=dict(checkpoint=dict(max_keep_ckpts=2)),
        randomness=dict(seed=1),
    )
    base = tiny_configs['detector']
    config = write_config(tmp_path / 'plain.py', base, **settings)
    hook = "dict(type='KilledWhileWriting', epoch=3)"
    killed = write_config(tmp_path / 'killed.py', base, [hook], **settings)
    straight, broken = tmp_path / 'straight', tmp_path / 'broken'
    assert train(config, straight)[0] == 0
    assert train(killed, broken)[0] == -signal.SIGKILL
    assert (broken / '.epoch_3.pth.partial').exists()
    assert sorted(path.name for path in broken.glob('*.pth')) == ['epoch_2.pth']
    status, output = train(config, broken, '--resume')
    assert status == 0, output
    assert 'resumed epoch: 2' in output
    assert differences(straight / 'epoch_4.pth', broken / 'epoch_4.pth') == []
    assert not list(broken.glob('.*'))


def test_ranks(tiny_configs, tmp_path):
    """Masks are equal on all ranks, a killed rank ends the job, fewer resume it."""
    settings = dict(train_cfg=dict(max_epochs=6, val_interval=6))
    hooks = [
        "dict(type='MaskRecorder')",
        "dict(type='KilledRank', rank=1, iteration=9)",
    ]
    base = tiny_configs['detector']
    config = write_config(tmp_path / 'killed.py', base, hooks, **settings)
    work_dir = tmp_path / 'job'
    status, output = train(config, work_dir, processes=2)
    assert status == 1, output
    assert 'SIGKILL' in output
    ranks = [json.loads((work_dir / f'rank{r}.json').read_text()) for r in range(2)]
    assert [rank['world_size'] for rank in ranks] == [2, 2]
    assert ranks[0]['stages'] == ranks[1]['stages']
    assert len(ranks[0]['stages']) == 4
    assert not set(ranks[0]['seen'][:2]) & set(ranks[1]['seen'][:2])
    assert find_last_checkpoint(work_dir)[0] == str(work_dir / 'epoch_4.pth')

    config = write_config(tmp_path / 'resumed.py', base, hooks[:1], **settings)
    status, output = train(config, work_dir, '--resume')
    assert status == 0, output
    assert 'resumed epoch: 4' in output
    alone = json.loads((work_dir / 'rank0.json').read_text())
    assert (alone['world_size'], alone['stages']) == (1, ranks[0]['stages'][-1:])


@pytest.mark.parametrize('launcher', ['slurm', 'pytorch'])
def test_processes_that_no_launcher_started(run, tiny_configs, tmp_path, launcher):
    error = run(
        'train.py',
        tiny_configs['classifier'],
        '--work-dir',
        tmp_path / 'job',
        '--launcher',
        launcher,
    )
    expected = {
        'slurm': 'The launcher slurm needs GPUs, and there is none here',
        'pytorch': 'MASTER_PORT are not set: start the processes by tools/dist_train',
    }
    assert expected[launcher] in error
    assert not (tmp_path / 'job').exists()
