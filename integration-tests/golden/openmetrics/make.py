"""What the reference parser of OpenMetrics reads in sample.txt, as sample.json.

    pip install prometheus_client==0.26.0
    python3 make.py
"""

import json
import pathlib

from prometheus_client.openmetrics.parser import text_string_to_metric_families

here = pathlib.Path(__file__).parent
families = []
for family in text_string_to_metric_families((here / "sample.txt").read_text()):
    samples = []
    for sample in family.samples:
        exemplar = sample.exemplar
        found = exemplar and [exemplar.labels, float(exemplar.value), float(exemplar.timestamp)]
        value = float(sample.value) if abs(sample.value) != float("inf") else str(sample.value)
        samples.append([sample.name, sample.labels, value, found])
    families.append({"name": family.name, "type": family.type, "help": family.documentation, "samples": samples})
(here / "sample.json").write_text(json.dumps(families, indent=1, ensure_ascii=False) + "\n")
