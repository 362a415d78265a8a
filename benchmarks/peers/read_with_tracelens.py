"""Reads a trace as TraceLens does, to its tree and its summary of operations; prints what it took as JSON.

`benchmarks.profiles` runs it with the peers' own interpreter: `python read_with_tracelens.py FIRST FILE`. Only the
second counts: the first has everything loaded.
"""

import sys
from contextlib import redirect_stdout
from io import StringIO

from measured import Watch
from TraceLens.TreePerf import TreePerfAnalyzer


def read(path: str) -> tuple[int, int]:
    """Return how many events there are, and rows of the summary."""
    with redirect_stdout(StringIO()):  # it says what it is doing
        analyzer = TreePerfAnalyzer.from_file(path)
        launchers = analyzer.get_df_kernel_launchers()
        summary = analyzer.get_df_kernel_launchers_summary(launchers)
    return len(analyzer.tree.events), len(summary)


first, file = sys.argv[1:]
read(first)
with Watch() as watch:
    events, operations = read(file)
watch.report(events=events, operations=operations)
