"""What the peers and the plots need beside our own packages: virtual environments of their own, and the Java job's build.

Installed by pip and Maven, in ``bench/.venvs`` and ``bench/peers/kafka_streams/target``, once for each version of what is asked for.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent
JAVA_JOB = BENCH / "peers" / "kafka_streams"
JAVA_VERSION = 17
INSTALL_SECONDS = 900


def environment_python(name: str) -> str:
    """The Python of a peer's own virtual environment."""
    return str(BENCH / ".venvs" / name / "bin" / "python")


def environment_missing(name: str) -> str | None:
    """Install the virtual environment ``name`` of ``bench/requirements/NAME.txt`` unless it is there; say why it can not be, or None."""
    requirements = BENCH / "requirements" / f"{name}.txt"
    directory = BENCH / ".venvs" / name
    stamp = directory / ".ready"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return None
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(directory)],
        [environment_python(name), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "-r", str(requirements)],
    ):
        failure = _run(command, BENCH)
        if failure is not None:
            return f"its packages can not be installed: {failure}"
    stamp.write_text(wanted)
    return None


def draw_plots(results: Path) -> str | None:
    """Draw ``results`` beside their file; say why they can not be, or None."""
    failure = environment_missing("plot")
    return failure or _run([environment_python("plot"), str(BENCH / "plot.py"), str(results), str(results.parent)], BENCH)


def java_command(*arguments: str) -> list[str]:
    """How the Java job is started."""
    return ["java", "-Xmx1g", "-cp", f"{JAVA_JOB / 'target' / 'classify.jar'}:{JAVA_JOB / 'target' / 'lib'}/*", "bench.Job", *arguments]


def java_job_missing() -> str | None:
    """Build the Java job unless it is built; say why it can not be, or None."""
    absent = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if absent:
        return f"needs a JDK of version {JAVA_VERSION} or newer and Maven, and there is no {absent[0]}"
    sources = sorted([*JAVA_JOB.glob("src/**/*.java"), JAVA_JOB / "pom.xml"])
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = JAVA_JOB / "target" / ".ready"
    if stamp.is_file() and stamp.read_text() == wanted:
        return None
    failure = _run(["mvn", "--quiet", "--batch-mode", "package"], JAVA_JOB)
    if failure is not None:
        return f"Maven can not build it: {failure}"
    stamp.write_text(wanted)
    return None


def _run(command: list[str], directory: Path) -> str | None:
    """Run ``command`` to its end; return the last line that it said when it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines[-1] if lines else f"status {done.returncode}")
