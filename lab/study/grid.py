"""What the study trains, and what it compares."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

from mmcdnv2.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A network and a recipe, as changes of the study's config.

    Attributes:
        name (str): What it is called in commands and folders.
        title (str): What it is, in a table.
        options (dict): Values by dotted keys, merged into the config.
        hook (dict, optional): Settings of the SparsificationHook; None to train
            without it, so that nothing is pruned.
        schedule (str): How the learning rate falls: one of
            :data:`~lab.study.recipes.SCHEDULES`, or '' for the config's own.
        resize (int, optional): Width and height that images are scaled to.
        label (str): What it is called in a picture, next to what it is compared
            with. Defaults to the title.
        as_costly_as (str): Entry whose MACs, condensed, this one's are brought
            to by higher growth rates; '' for none.
    """

    name: str
    title: str
    options: Dict[str, Any] = field(default_factory=dict)
    hook: Optional[Dict[str, Any]] = field(default_factory=dict)
    schedule: str = ''
    resize: Optional[int] = None
    as_costly_as: str = ''
    label: str = ''


@dataclass(frozen=True)
class Comparison:
    """Entries that answer a question together.

    Attributes:
        name (str): What it is called in files.
        title (str): What is compared.
        claim (str): What the paper says, in one sentence; or what we ask.
        entries (tuple[str]): Names of the entries, in the order of the picture.
        references (tuple[str]): Those that the others are held against.
    """

    name: str
    title: str
    claim: str
    entries: Tuple[str, ...]
    references: Tuple[str, ...]

    def pairs(self, trained: Iterable[str]) -> List[Tuple[str, str]]:
        """Name the pairs to compare.

        Args:
            trained (Iterable[str]): The entries that there are.

        Returns:
            list[tuple[str]]: Entry and reference, no pair twice.
        """
        present = set(trained)
        pairs: List[Tuple[str, str]] = []
        for reference in self.references:
            for entry in self.entries:
                known = entry == reference or (reference, entry) in pairs
                if not known and {entry, reference} <= present:
                    pairs.append((entry, reference))
        return pairs


def _arch(**changes: Any) -> Dict[str, Any]:
    """Change the base network's architecture."""
    return {f'model.backbone.arch.{key}': value for key, value in changes.items()}


def _shufflenet(kind: str) -> Dict[str, Any]:
    """Take a ShuffleNetV2 at half of its width in place of the base network."""
    backbone = dict(_delete_=True, type=kind, widen_factor=0.5)
    return {'model.backbone': backbone, 'model.head.in_channels': 1024}


_RELEASED = {'model.backbone.sfr_init': 'released'}
_NORM_FIRST = _arch(sfr_order=('norm', 'act', 'conv'))
# The demo's recipe.
_ADAMW = {
    'optim_wrapper': dict(
        _delete_=True,
        optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    )
}
_NONE = _arch(sparse_factor=None)

ENTRIES: Dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry('none', 'without SFR', _NONE, label='no SFR'),
        Entry(
            'none-wide',
            'without SFR, wider',
            _NONE,
            as_costly_as='s4',
            label='no SFR,\nwider',
        ),
        Entry('s4', 'SFR, base', label='SFR,\nbase'),
        Entry(
            's4-released',
            'SFR, started as released',
            _RELEASED,
            label='SFR as\nreleased',
        ),
        # At stride 32 these leave but one pixel of CIFAR's images.
        Entry(
            'shufflenetv2',
            'ShuffleNetV2 0.5x',
            _shufflenet('mmpretrain.ShuffleNetV2'),
            resize=64,
            label='ShuffleNetV2',
        ),
        Entry(
            'sfr-shufflenetv2',
            'SFR-ShuffleNetV2 0.5x',
            _shufflenet('SFRShuffleNetV2'),
            resize=64,
            label='SFR-\nShuffleNetV2',
        ),
        Entry('s1', 'SFR, S = 1', _arch(sparse_factor=1), label='S=1'),
        Entry('s2', 'SFR, S = 2', _arch(sparse_factor=2), label='S=2'),
        Entry('s8', 'SFR, S = 8', _arch(sparse_factor=8), label='S=8'),
        Entry('g1', 'SFR, G = 1', _arch(sfr_groups=1), label='G=1'),
        Entry('g2', 'SFR, G = 2', _arch(sfr_groups=2), label='G=2'),
        Entry('g8', 'SFR, G = 8', _arch(sfr_groups=8), label='G=8'),
        Entry('s4-se', 'SFR, SE', _arch(se_from=1), label='SFR, SE'),
        Entry(
            's4-se-hs',
            'SFR, SE, hard-swish',
            _arch(se_from=1, hswish_from=1),
            label='SFR, SE,\nhard-swish',
        ),
        Entry('none-adamw', 'without SFR, AdamW', {**_NONE, **_ADAMW}, label='no SFR'),
        Entry('s4-adamw', 'SFR, AdamW', _ADAMW, label='SFR,\nbase'),
        Entry(
            's4-released-adamw',
            'SFR, started as released, AdamW',
            {**_RELEASED, **_ADAMW},
            label='SFR as\nreleased',
        ),
        Entry('s4-nac', 'SFR, norm first', _NORM_FIRST, label='SFR, norm\nfirst'),
        Entry(
            's4-nac-released',
            'SFR, norm first, started as released',
            {**_NORM_FIRST, **_RELEASED},
            label='norm first,\nreleased',
        ),
        Entry('s4-dense', 'SFR, never pruned', hook=None, label='never'),
        Entry(
            's4-early',
            'SFR, pruned in the first quarter',
            hook=dict(begin=0.0, end=0.25),
            label='first\nquarter',
        ),
        Entry(
            's4-late',
            'SFR, pruned in the middle half',
            hook=dict(begin=0.25, end=0.75),
            label='middle\nhalf',
        ),
        Entry(
            's4-lasso',
            'SFR, group lasso',
            hook=dict(group_lasso=1e-5),
            label='group\nlasso',
        ),
        Entry(
            's4-linear', 'SFR, linear learning rate', schedule='linear', label='linear'
        ),
        Entry('s4-step', 'SFR, learning rate in steps', schedule='step', label='steps'),
    )
}

COMPARISONS = (
    Comparison(
        'condensenet',
        'CondenseNet and CondenseNetV2',
        'CondenseNetV2 makes fewer errors than CondenseNet at the same cost '
        '(CIFAR and ImageNet tables).',
        ('none', 'none-wide', 's4'),
        ('none-wide', 'none'),
    ),
    Comparison(
        'figure-8b',
        'Sparse factor S of SFR, 4 in the base',
        'S = 4 is best, S = 1, dense reactivation, worst (Figure 8b).',
        ('s1', 's2', 's4', 's8'),
        ('s4',),
    ),
    Comparison(
        'figure-8a',
        'Groups G of SFR, 4 in the base',
        'The more groups the better, at the same cost (Figure 8a).',
        ('g1', 'g2', 's4', 'g8'),
        ('s4',),
    ),
    Comparison(
        'table-4',
        'SFR, squeeze-and-excite, hard-swish',
        'SFR lowers the error, SE and hard-swish lower it further (Table 4).',
        ('none', 's4', 's4-se', 's4-se-hs'),
        ('none', 's4'),
    ),
    Comparison(
        'shufflenet',
        'ShuffleNetV2 0.5x with and without SFR',
        'SFR lowers the error of ShuffleNetV2 (ImageNet tables).',
        ('shufflenetv2', 'sfr-shufflenetv2'),
        ('shufflenetv2',),
    ),
    Comparison(
        'start-sgd',
        'Start of SFR, SGD',
        'Not in the paper: does the start of SFR decide?',
        ('none', 's4-released', 's4'),
        ('none', 's4-released'),
    ),
    Comparison(
        'start-adamw',
        'Start of SFR, AdamW',
        'Not in the paper: does the start of SFR decide?',
        ('none-adamw', 's4-released-adamw', 's4-adamw'),
        ('none-adamw', 's4-released-adamw'),
    ),
    Comparison(
        'start-norm-first',
        'Start of SFR, norm first',
        'Not in the paper: and where the norm comes first?',
        ('none', 's4-nac-released', 's4-nac'),
        ('none', 's4-nac-released'),
    ),
    Comparison(
        'pruning',
        'When to prune',
        'Not in the paper: does sparsification itself cost?',
        ('s4', 's4-dense', 's4-early', 's4-late', 's4-lasso'),
        ('s4',),
    ),
    Comparison(
        'schedule',
        'Fall of the learning rate',
        'Not in the paper, which has the cosine alone.',
        ('s4', 's4-linear', 's4-step'),
        ('s4',),
    ),
)

QUICK = ('none', 's4', 's4-released', 'shufflenetv2', 'sfr-shufflenetv2')


def select_entries(names: Iterable[str]) -> List[Entry]:
    """Look entries up by their names.

    Args:
        names (Iterable[str]): Their names; all entries if there is none.

    Returns:
        list[Entry]: In the grid's order, none twice.

    Raises:
        InputError: If there is no such entry.
    """
    wanted = set(names) or set(ENTRIES)
    unknown = wanted - set(ENTRIES)
    if unknown:
        raise InputError(
            f'There is no entry {min(unknown)} in the study: choose from '
            f'{", ".join(ENTRIES)}.'
        )
    return [entry for name, entry in ENTRIES.items() if name in wanted]
