"""What Weir is made of: the licences of its parts, and a bill of materials (CycloneDX)."""

import argparse
import json
import pathlib
import subprocess
import sys
import zipfile

TEXTS = ("LICEN", "COPYING", "NOTICE", "UNLICENSE")


def crates(root):
    """The crates that are linked into the program, for Linux, without those of tests."""
    target = subprocess.check_output(["rustc", "-vV"], text=True)
    host = next(line.split()[1] for line in target.splitlines() if line.startswith("host:"))
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    told = json.loads(subprocess.check_output(command, cwd=root))
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    own = told["resolve"]["root"]
    seen, waiting = set(), [own]
    while waiting:
        for edge in nodes[waiting.pop()]["deps"]:
            linked = any(kind["kind"] is None for kind in edge["dep_kinds"])
            if linked and edge["pkg"] not in seen:
                seen.add(edge["pkg"])
                waiting.append(edge["pkg"])
    found = [packages[name] for name in seen]
    return packages[own], sorted(found, key=lambda package: (package["name"], package["version"]))


def licences(root, out, wheels):
    """One text with the licence of every crate; and what the wheel of ONNX Runtime says of itself."""
    own, parts = crates(root)
    out.mkdir(parents=True, exist_ok=True)
    missing = []
    with open(out / "CRATES.txt", "w", encoding="utf-8") as text:
        text.write(f"Rust crates in {own['name']} {own['version']}, and their licences.\n")
        for part in parts:
            said = part["license"] or "see the text"
            text.write(f"\n{'=' * 100}\n{part['name']} {part['version']}: {said}\n{part['repository'] or ''}\n")
            folder = pathlib.Path(part["manifest_path"]).parent
            files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.upper().startswith(TEXTS)]
            if not files:
                missing.append(part["name"])
            for path in files:
                text.write(f"\n-- {path.name}\n\n{path.read_text(encoding='utf-8', errors='replace')}")
    for wheel in sorted(wheels.glob("onnxruntime-*.whl")) if wheels else []:
        with zipfile.ZipFile(wheel) as box:
            for name in ("LICENSE", "ThirdPartyNotices.txt"):
                (out / f"onnxruntime-{name}").write_bytes(box.read(f"onnxruntime/{name}"))
    (out / "README.txt").write_text(
        "Weir is licensed under MIT or Apache-2.0.\n"
        "CRATES.txt: the Rust crates inside the program. onnxruntime-*: ONNX Runtime.\n"
        "Debian's packages, FFmpeg's libraries and x264 (GPL-2 or later) among them, have theirs in\n"
        "/usr/share/doc/<package>/copyright. The program as it runs, linked with them, is under the GPL, version 2 or later.\n",
        encoding="utf-8",
    )
    print(f"{len(parts)} crates; without a text of their own: {', '.join(missing) or 'none'}")


def bill(root, out):
    """A CycloneDX document of the crates."""
    own, parts = crates(root)

    def component(part, kind):
        name, version = part["name"], part["version"]
        told = {"type": kind, "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
        told["bom-ref"] = told["purl"]
        if part["license"]:
            told["licenses"] = [{"expression": part["license"].replace("/", " OR ")}]
        return told

    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(own, "application")},
        "components": [component(part, "library") for part in parts],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{len(parts)} components in {out}")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["licences", "bill"])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheels", type=pathlib.Path, help="folder with the wheel of ONNX Runtime")
    given = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    if given.what == "licences":
        licences(root, given.out, given.wheels)
    else:
        bill(root, given.out)


if __name__ == "__main__":
    sys.exit(main())
