#!/usr/bin/env python3
"""Finds things in slipway's stores for bench/sandbox and bench/assembly.

sandbox.py layer LAYOUT: the file of the only layer of an OCI image layout.
sandbox.py inputs STORE TARGET: what the newest result of a target was made from, a
line for each file: "rpm NUMBER NAME FILE", "source NUMBER NAME DIGEST" or
"group NUMBER NAME DIGEST".
sandbox.py setting STORE TARGET NAME: a setting that it was made from.
sandbox.py file STORE TARGET NAME: where a file of it lies.
"""
import glob
import json
import os
import sys


def blob(layout, digest):
    return os.path.join(layout, "blobs", *digest.split(":"))


def read(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def manifest_of(store, target):
    found = []
    for path in glob.glob(os.path.join(store, "blobs/sha256/*")):
        if os.path.getsize(path) > 4 << 20:
            continue
        with open(path, "rb") as f:
            if f.read(1) != b"{":
                continue
        try:
            m = read(path)
        except ValueError:
            continue
        if m.get("annotations", {}).get("dev.slipway.target") == target:
            found.append((os.path.getmtime(path), path, m))
    if not found:
        sys.exit(f"{store} has no result of {target}")
    return max(found)[2]


def main():
    what, place, *rest = sys.argv[1:]
    if what == "layer":
        index = read(os.path.join(place, "index.json"))
        manifest = read(blob(place, index["manifests"][0]["digest"]))
        print(blob(place, manifest["layers"][0]["digest"]))
    elif what == "inputs":
        inputs = read(blob(place, manifest_of(place, rest[0])["config"]["digest"]))
        for n, f in enumerate(sorted(inputs.get("rpms", []), key=lambda f: f["name"])):
            print("rpm", n, f["name"], blob(place, f["digest"]))
        for kind in "sources", "groups":
            for n, f in enumerate(inputs.get(kind, [])):
                print(kind[:-1], n, f["name"], f["digest"].split(":")[1])
    elif what == "setting":
        print(read(blob(place, manifest_of(place, rest[0])["config"]["digest"]))["settings"][rest[1]])
    elif what == "file":
        for layer in manifest_of(place, rest[0])["layers"]:
            if layer.get("annotations", {}).get("org.opencontainers.image.title") == rest[1]:
                print(blob(place, layer["digest"]))
    else:
        sys.exit(f"{what}: it is layer, inputs, setting or file")


main()
