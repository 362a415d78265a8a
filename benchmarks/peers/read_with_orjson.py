"""Parses a trace and does nothing with it, as TraceLens begins; prints what it took as JSON.

`benchmarks.profiles` runs it with the peers' own interpreter: `python read_with_orjson.py FIRST FILE`; only the second
counts.
"""

import sys
from pathlib import Path

import orjson
from measured import Watch

_, file = sys.argv[1:]
with Watch() as watch:
    trace = orjson.loads(Path(file).read_bytes())
watch.report(events=len(trace["traceEvents"]))
