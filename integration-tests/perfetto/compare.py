"""Compares a trace's file with what Perfetto's trace processor makes of it. Arguments: the page's folder, the trace."""

import collections
import json
import pathlib
import statistics
import subprocess
import sys

page, trace = sys.argv[1:]
text = pathlib.Path(trace).read_text()
# The array may be open, as it is while the engine writes, and after it.
text = text.rstrip().rstrip(",")
events = json.loads(text if text.endswith("]") else text + "]")

# What stands there: pairs of a beginning and an end, moments, names of tracks.
open_at, spans, moments, names = {}, [], collections.Counter(), {}
for event in events:
    key = (event["pid"], event["cat"], event["id2"]["local"]) if "id2" in event else None
    if event["ph"] == "b":
        open_at[key] = event
    elif event["ph"] == "e":
        begin = open_at.pop(key)
        spans.append((begin["name"], begin["args"]["frame"], round(begin["ts"] * 1000), round(event["ts"] * 1000)))
    elif event["ph"] == "i":
        moments[event["name"]] += 1
    elif event["ph"] == "M" and event["name"] == "process_name":
        names[event["pid"]] = event["args"]["name"]

queries = [
    "select name, severity, value from stats where value != 0 and severity in ('error', 'data_loss')",
    """select s.name, p.name, t.name, extract_arg(s.arg_set_id, 'args.frame'), s.ts, s.dur
       from slice s join process_track t on s.track_id = t.id join process p using (upid)""",
    "select name, count(*) from slice where dur = 0 and category is null group by name",
]
answer = subprocess.run(
    ["node", str(pathlib.Path(__file__).parent / "query.mjs"), page, trace, *queries],
    check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120,
)
errors, slices, instants = (json.loads(line) for line in answer.stdout.splitlines() if line.startswith("["))

trouble = [f"Perfetto reports {error}" for error in errors]
engine = next((name for name in names.values() if name == "weir engine"), None)
found = {(name, frame): (track, process, at, at + long) for name, process, track, frame, at, long in slices}
if not spans or len(found) != len(slices) or len(found) != len(spans):
    trouble.append(f"{len(spans)} stages of frames stand in the file, Perfetto has {len(found)} in {len(slices)} slices")
for name, frame, begin, end in spans:
    track, process, at, to = found.get((name, frame), (None, None, 0, 0))
    # Times in the file have three digits behind the microsecond; Perfetto reads them as floating point numbers.
    if track != name or process != engine or abs(at - begin) > 1000 or abs((to - at) - (end - begin)) > 1000:
        trouble.append(f"{name} of frame {frame}: {begin} to {end} in the file, {at} to {to} on {track} of {process}")
if dict(instants) != dict(moments):
    trouble.append(f"moments: {dict(moments)} in the file, {dict(instants)} in Perfetto")

for line in trouble[:10]:
    print("perfetto:", line, file=sys.stderr)
if trouble:
    sys.exit(1)
for stage in dict.fromkeys(name for name, *_ in spans):
    times = [(to - at) / 1e6 for name, _, _, _, at, long in slices for to in [at + long] if name == stage]
    print(f"{stage:8} {len(times):5} slices on a track of the engine, median {statistics.median(times):7.3f} ms")
print("moments:", ", ".join(f"{count} {name}" for name, count in instants) or "none")
