"""What Weir is made of: the licences of its parts, and a bill of materials (CycloneDX)."""

import argparse
import hashlib
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


def document(root_component, components):
    """A CycloneDX document."""
    told = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return told | {"metadata": {"component": root_component}, "components": components}


def component(kind, name, version, purl, licence=None, sha256=None):
    """One part of it."""
    told = {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}
    if licence:
        told["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    if sha256:
        told["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    return told


def write(out, told):
    """Writes a document."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{len(told['components'])} components in {out}")


def bill(root, out):
    """A CycloneDX document of the crates."""
    own, parts = crates(root)

    def crate(part, kind):
        name, version = part["name"], part["version"]
        return component(kind, name, version, f"pkg:cargo/{name}@{version}", part["license"])

    write(out, document(crate(own, "application"), [crate(part, "library") for part in parts]))


def runtime(wheels, out):
    """A CycloneDX document of ONNX Runtime for the CPU, by its wheel."""
    components = []
    for wheel in sorted(wheels.glob("onnxruntime-*.whl")):
        version = wheel.name.split("-")[1]
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        components.append(component("library", "onnxruntime", version, f"pkg:pypi/onnxruntime@{version}", "MIT", sha256))
    if len(components) != 1:
        sys.exit(f"parts: {wheels} has {len(components)} wheels of onnxruntime where one is expected")
    write(out, document({"type": "application", "name": "onnxruntime"}, components))


def gpu(pins, out, tensorrt):
    """A CycloneDX document of the GPU libraries that a list pins."""
    components = []
    for line in pins.read_text(encoding="utf-8").splitlines():
        if line.startswith("maven:"):
            package, sha256 = line.removeprefix("maven:").split()
            group, name, version, packaging, classifier = package.split(":")
            purl = f"pkg:maven/{group}/{name}@{version}?classifier={classifier}&type={packaging}"
            if tensorrt:
                components.append(component("library", name, version, purl, sha256=sha256.removeprefix("sha256:")))
        elif line and not line.startswith("#"):
            name, version = line.split("==")
            components.append(component("library", name, version, f"pkg:pypi/{name}@{version}"))
    write(out, document({"type": "application", "name": pins.stem}, components))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["licences", "bill", "runtime", "gpu"])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheels", type=pathlib.Path, help="folder with the wheel of ONNX Runtime")
    parser.add_argument("--list", type=pathlib.Path, help="the list for `gpu`, such as docker/cuda-12.txt")
    parser.add_argument("--without-tensorrt", action="store_true", help="leave TensorRT out of the bill of `gpu`")
    given = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    if given.what == "licences":
        licences(root, given.out, given.wheels)
    elif given.what == "bill":
        bill(root, given.out)
    elif given.what == "runtime" and given.wheels:
        runtime(given.wheels, given.out)
    elif given.what == "gpu" and given.list:
        gpu(given.list, given.out, not given.without_tensorrt)
    else:
        parser.error("runtime needs --wheels, gpu needs --list")


if __name__ == "__main__":
    sys.exit(main())
