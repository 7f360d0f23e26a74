#!/usr/bin/env python3
"""Reads the report of a build (build/reports/<time>.json).

report.py sums FILE: wall, longest chain, CPU seconds and processors, in one line.
report.py targets FILE: a Markdown table of what was built, longest CPU time first.
report.py built FILE: the names of the targets that were built, one a line.
"""
import json
import sys

what, name = sys.argv[1:]
with open(name, encoding="utf-8") as f:
    report = json.load(f)
if what == "sums":
    print(report["wall"], report["criticalPath"]["wall"], report["cpu"], report["cores"])
elif what == "built":
    for t in report["targets"]:
        if t["status"] == "built":
            print(t["name"])
elif what == "targets":
    built = sorted((t for t in report["targets"] if t["status"] == "built"), key=lambda t: -t["cpu"])
    print("| target | CPU seconds | wall seconds | waited | peak memory |")
    print("|---|---|---|---|---|")
    for t in built:
        print(f"| {t['name']} | {t['cpu']:.0f} | {t['wall']:.0f} | {t['wait']:.0f} | {t['memory'] / 1e6:.0f} MB |")
    print(f"| sum | {sum(t['cpu'] for t in built):.0f} | | | |")
    print()
    print("Longest chain:", " → ".join(report["criticalPath"]["targets"]))
else:
    sys.exit(f"{what}: it is sums, targets or built")
