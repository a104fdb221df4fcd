"""Plot the parts of detectors' latencies."""

from matplotlib.figure import Figure

from .detectors import STEPS, DetectorReport

# The backbone has our blue of the latency plot.
COLOURS = dict(zip(STEPS, ('#08306b', '#2f7fc1', '#9ecae1', '#d0d0d0')))
# In inches: a bar, a character of its name, all bars, title and legend.
BAR, CHARACTER, BARS, AROUND = 0.3, 0.095, 6.2, 1.5


def detector_figure(report: DetectorReport) -> Figure:
    """Draw the latency of each detector, part by part.

    Args:
        report (DetectorReport): The measurements.

    Returns:
        Figure: A bar for each detector, the slowest at the bottom, with its
        latency and MACs.
    """
    rows = sorted(report.rows, key=lambda row: row.ms, reverse=True)
    height = BAR * len(rows) + AROUND
    names = [row.name for row in rows]
    left_of = 0.2 + CHARACTER * max(map(len, names))
    width = left_of + BARS
    figure = Figure(figsize=(width, height), dpi=120)
    ax = figure.subplots()
    figure.subplots_adjust(
        left=left_of / width,
        right=1 - 0.3 / width,
        bottom=0.85 / height,
        top=1 - 0.6 / height,
    )
    left = [0.0] * len(rows)
    for step in STEPS:
        widths = [row.steps[step] for row in rows]
        ax.barh(names, widths, left=left, color=COLOURS[step], label=step, height=0.75)
        left = [begin + width for begin, width in zip(left, widths)]
    longest = max(left)
    for y, (row, end) in enumerate(zip(rows, left)):
        text = f'{row.ms:.1f} ms, {sum(row.macs.values()) / 1e9:.2f}G'
        ax.text(end + 0.01 * longest, y, text, va='center', size=8)
    ax.set_xlim(0, 1.25 * longest)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis='y', length=0)
    ax.spines[['top', 'right', 'left']].set_visible(False)
    ax.set_xlabel('ms an image, median')
    figure.legend(loc='lower center', ncol=len(STEPS), fontsize=8, frameon=False)
    settings = report.settings
    threads = f'{settings.threads} thread{"s" * (settings.threads > 1)}'
    figure.suptitle(
        f'Detectors at {settings.size[0]}x{settings.size[1]}, {threads}, float32, '
        f'PyTorch, MACs\n{report.environment["processor"]}',
        size=10,
        y=1 - 0.1 / height,
        va='top',
    )
    return figure
