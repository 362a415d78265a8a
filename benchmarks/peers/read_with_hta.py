"""Reads a trace as HolisticTraceAnalysis does for one rank; prints what it took as JSON.

`benchmarks.profiles` runs it with the peers' own interpreter: `python read_with_hta.py FIRST FILE`, absolute paths.
Only the second counts: the first has everything loaded.
"""

import logging
import sys

from hta.trace_analysis import TraceAnalysis
from measured import Watch

logging.disable()
first, file = sys.argv[1:]
TraceAnalysis(trace_files={0: first})
with Watch() as watch:
    analysis = TraceAnalysis(trace_files={0: file})
watch.report(events=len(analysis.t.get_trace(0)))
