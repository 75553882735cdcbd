#!/usr/bin/env python3
"""Draws config/grafana/weir.json from a Prometheus, without Grafana: every panel's queries, at its place.

    pip install matplotlib
    config/grafana/draw.py --prometheus http://127.0.0.1:9090 --minutes 5 --out docs/dashboard.png

The picture shows what the dashboard's queries give. Colours and type are not Grafana's.
"""

import argparse
import json
import math
import pathlib
import re
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt
from datetime import datetime, timezone

GROUND, SHEET, INK, QUIET = "#14171a", "#1c2126", "#e8ecef", "#95a3ad"
COLOURS = ["#4fb8d8", "#57c585", "#e0ac4a", "#f0857d", "#b48ef0", "#7f8fa6", "#d88fb4", "#a3c14a", "#5b8def", "#c9a27a"]


def ask(base, path, **values):
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(values)}") as answer:
        return json.load(answer)["data"]["result"]


def legend(target, labels):
    text = target.get("legendFormat") or ""
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found.group(1), ""), text).strip()
    return text or ", ".join(f"{key}={value}" for key, value in labels.items())


def words(value, unit):
    """A number as people read it."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
    size = abs(value)
    for power, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= power:
            return f"{value / power:.3g}{letter}{'bit/s' if unit == 'bps' else ''}"
    return f"{value:.3g}{' bit/s' if unit == 'bps' else ''}"


def main():
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--prometheus", default="http://127.0.0.1:9090")
    flags.add_argument("--minutes", type=float, default=5)
    flags.add_argument("--until", type=float, default=None, help="Unix time of the right edge; now without it")
    flags.add_argument("--interval", default="15s", help="for $__rate_interval")
    flags.add_argument("--out", required=True)
    given = flags.parse_args()
    dashboard = json.loads((pathlib.Path(__file__).parent / "weir.json").read_text())
    end = given.until or time.time()
    start, step = end - given.minutes * 60, max(1, given.minutes * 60 // 240)

    def filled(expression):
        return expression.replace("$__rate_interval", given.interval).replace("$instance", ".*")

    panels = dashboard["panels"]
    wide, tall = 24, max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    unit_x, unit_y = 0.66, 0.36
    figure = plt.figure(figsize=(wide * unit_x, tall * unit_y + 0.5), facecolor=GROUND)
    height = tall * unit_y + 0.5
    figure.text(0.008, 1 - 0.33 / height, dashboard["title"], color=INK, fontsize=15, weight="bold")
    for panel in panels:
        place, unit = panel["gridPos"], panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
        left, width = place["x"] / wide, place["w"] / wide
        top, size = 0.5 + place["y"] * unit_y, place["h"] * unit_y
        frame = figure.add_axes([left + 0.004, 1 - (top + size) / height + 0.003, width - 0.008, size / height - 0.006])
        frame.set(xticks=[], yticks=[], facecolor=SHEET)
        for spine in frame.spines.values():
            spine.set_color("#2d343b")
        figure.text(left + 0.01, 1 - (top + 0.27) / height, panel["title"], color=INK, fontsize=10, weight="bold")
        if panel["type"] == "timeseries":
            axes = figure.add_axes(
                [left + 0.045, 1 - (top + size - 0.75) / height, width - 0.055, (size - 1.2) / height], facecolor=SHEET
            )
            found = 0
            for target in panel["targets"]:
                for series in ask(
                    given.prometheus, "query_range", query=filled(target["expr"]), start=start, end=end, step=step
                ):
                    points = []
                    for at, value in series["values"]:
                        if points and float(at) - points[-1][0] > 2.5 * step:
                            points.append((points[-1][0] + step, math.nan))
                        points.append((float(at), float(value)))
                    times = [datetime.fromtimestamp(at, timezone.utc) for at, _ in points]
                    colour = COLOURS[found % len(COLOURS)]
                    axes.plot(times, [value for _, value in points], lw=1.3, color=colour,
                              label=legend(target, series["metric"]))
                    found += 1
            axes.set_xlim(datetime.fromtimestamp(start, timezone.utc), datetime.fromtimestamp(end, timezone.utc))
            axes.set_ylim(bottom=0)
            axes.margins(y=0.1)
            axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
            axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(minticks=3, maxticks=6))
            axes.yaxis.set_major_formatter(lambda value, _, unit=unit: words(value, unit))
            axes.tick_params(colors=QUIET, labelsize=7, length=0)
            axes.grid(color="#2d343b", lw=0.6)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if found:
                axes.legend(loc="upper center", bbox_to_anchor=(0.47, -0.11), ncols=min(found, 5), frameon=False, fontsize=6.5,
                            labelcolor=QUIET, handlelength=1, columnspacing=1)
            else:
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, "no data", color=QUIET, ha="center", transform=axes.transAxes, fontsize=9)
            continue
        lines = []
        for target in panel["targets"]:
            for series in ask(given.prometheus, "query", query=filled(target["expr"]), time=end):
                name = legend(target, series["metric"])
                if panel["type"] == "table":
                    kept = {k: v for k, v in series["metric"].items() if k not in ("__name__", "job", "instance")}
                    lines.append((name, ", ".join(f"{k} {v}" for k, v in kept.items())))
                else:
                    lines.append((name, words(float(series["value"][1]), unit)))
        for index, (name, value) in enumerate(lines[:4]):
            if panel["type"] == "table":
                at = 1 - (top + 0.75 + 0.3 * index) / height
                figure.text(left + 0.012, at, f"{name}: {value}", color=INK, fontsize=8)
                continue
            centre = left + width * (index + 0.5) / max(len(lines), 1)
            figure.text(centre, 1 - (top + 0.85) / height, value, color=COLOURS[0], fontsize=17, ha="center", weight="bold")
            figure.text(centre, 1 - (top + 1.2) / height, name, color=QUIET, fontsize=8, ha="center")
    figure.savefig(given.out, dpi=72, facecolor=GROUND)


if __name__ == "__main__":
    main()
