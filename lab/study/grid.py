"""The networks that a study trains and the comparisons that it makes."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

from mmcdnv2.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A network and a recipe, as changes to the study's config.

    Attributes:
        name (str): Name in commands and folders.
        title (str): Description in tables.
        label (str): Name in the plot.
        options (dict): Config values to merge, by dotted keys.
        hook (dict, optional): Settings of the SparsificationHook; None trains
            without the hook, so nothing is pruned.
        schedule (str): Learning rate schedule, a key of
            :data:`~lab.study.recipes.SCHEDULES`; '' keeps the config's.
        resize (int, optional): Width and height to scale images to.
        match_macs (str): Entry whose condensed MACs this one matches by higher
            growth rates; '' for none.
    """

    name: str
    title: str
    label: str
    options: Dict[str, Any] = field(default_factory=dict)
    hook: Optional[Dict[str, Any]] = field(default_factory=dict)
    schedule: str = ''
    resize: Optional[int] = None
    match_macs: str = ''


@dataclass(frozen=True)
class Comparison:
    """Entries that answer one question.

    Attributes:
        name (str): Name in files.
        title (str): Heading.
        claim (str): The paper's claim, or our question, in one sentence.
        entries (tuple[str]): Names of the entries, in the order of the plot.
        references (tuple[str]): Entries that the others are compared with.
    """

    name: str
    title: str
    claim: str
    entries: Tuple[str, ...]
    references: Tuple[str, ...]

    def pairs(self, trained: Iterable[str]) -> List[Tuple[str, str]]:
        """Return each pair of entry and reference once.

        Args:
            trained (Iterable[str]): Names of the entries in the study.
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
    """Return options that change the base network's architecture."""
    return {f'model.backbone.arch.{key}': value for key, value in changes.items()}


def _shufflenet(kind: str) -> Dict[str, Any]:
    """Return options that replace the base network by a ShuffleNetV2 0.5x."""
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

_SE = _arch(se_from=1)
_SE_HS = _arch(se_from=1, hswish_from=1)

ENTRIES: Dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry('none', 'without SFR', 'no SFR', _NONE),
        Entry(
            'none-wide', 'without SFR, wider', 'no SFR,\nwider', _NONE, match_macs='s4'
        ),
        Entry('s4', 'SFR, base', 'SFR,\nbase'),
        Entry('s4-released', 'SFR, started as released', 'SFR as\nreleased', _RELEASED),
        # Stride 32 would reduce CIFAR's images to one pixel.
        Entry(
            'shufflenetv2',
            'ShuffleNetV2 0.5x',
            'ShuffleNetV2',
            _shufflenet('mmpretrain.ShuffleNetV2'),
            resize=64,
        ),
        Entry(
            'sfr-shufflenetv2',
            'SFR-ShuffleNetV2 0.5x',
            'SFR-\nShuffleNetV2',
            _shufflenet('SFRShuffleNetV2'),
            resize=64,
        ),
        Entry('s1', 'SFR, S = 1', 'S=1', _arch(sparse_factor=1)),
        Entry('s2', 'SFR, S = 2', 'S=2', _arch(sparse_factor=2)),
        Entry('s8', 'SFR, S = 8', 'S=8', _arch(sparse_factor=8)),
        Entry('g1', 'SFR, G = 1', 'G=1', _arch(sfr_groups=1)),
        Entry('g2', 'SFR, G = 2', 'G=2', _arch(sfr_groups=2)),
        Entry('g8', 'SFR, G = 8', 'G=8', _arch(sfr_groups=8)),
        Entry('s4-se', 'SFR, SE', 'SFR, SE', _SE),
        Entry('s4-se-hs', 'SFR, SE, hard-swish', 'SFR, SE,\nhard-swish', _SE_HS),
        Entry('none-adamw', 'without SFR, AdamW', 'no SFR', {**_NONE, **_ADAMW}),
        Entry('s4-adamw', 'SFR, AdamW', 'SFR,\nbase', _ADAMW),
        Entry(
            's4-released-adamw',
            'SFR, started as released, AdamW',
            'SFR as\nreleased',
            {**_RELEASED, **_ADAMW},
        ),
        Entry('s4-nac', 'SFR, norm first', 'SFR, norm\nfirst', _NORM_FIRST),
        Entry(
            's4-nac-released',
            'SFR, norm first, started as released',
            'norm first,\nreleased',
            {**_NORM_FIRST, **_RELEASED},
        ),
        Entry('s4-dense', 'SFR, never pruned', 'never', hook=None),
        Entry(
            's4-early',
            'SFR, pruned in the first quarter',
            'first\nquarter',
            hook=dict(begin=0.0, end=0.25),
        ),
        Entry(
            's4-late',
            'SFR, pruned in the middle half',
            'middle\nhalf',
            hook=dict(begin=0.25, end=0.75),
        ),
        Entry(
            's4-lasso', 'SFR, group lasso', 'group\nlasso', hook=dict(group_lasso=1e-5)
        ),
        Entry('s4-linear', 'SFR, linear learning rate', 'linear', schedule='linear'),
        Entry('s4-step', 'SFR, learning rate in steps', 'steps', schedule='step'),
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
        'S = 4 is best; S = 1, dense reactivation, is worst (Figure 8b).',
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
        'SFR lowers the error; SE and hard-swish lower it further (Table 4).',
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
        'Not in the paper: does the start of SFR matter?',
        ('none', 's4-released', 's4'),
        ('none', 's4-released'),
    ),
    Comparison(
        'start-adamw',
        'Start of SFR, AdamW',
        'Not in the paper: does the start of SFR matter?',
        ('none-adamw', 's4-released-adamw', 's4-adamw'),
        ('none-adamw', 's4-released-adamw'),
    ),
    Comparison(
        'start-norm-first',
        'Start of SFR, norm first',
        'Not in the paper: does it matter with the norm first?',
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
        'Not in the paper, which only uses the cosine.',
        ('s4', 's4-linear', 's4-step'),
        ('s4',),
    ),
)

QUICK = ('none', 's4', 's4-released', 'shufflenetv2', 'sfr-shufflenetv2')


def select_entries(names: Iterable[str]) -> List[Entry]:
    """Return entries in the grid's order, all of them if no name is given.

    Raises:
        InputError: If a name is unknown.
    """
    wanted = set(names) or set(ENTRIES)
    unknown = wanted - set(ENTRIES)
    if unknown:
        raise InputError(
            f'There is no entry {min(unknown)} in the study: choose from '
            f'{", ".join(ENTRIES)}.'
        )
    return [entry for name, entry in ENTRIES.items() if name in wanted]
