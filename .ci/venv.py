"""Make the virtual environment .venv from requirements.lock; the Makefile calls this. Needs nothing but Python.

It counts as finished only with its last step, the stamp file, so an interrupted run is taken up by the next one.
"""

import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
VENV = Path(".venv")
STAMP = VENV / ".tierstream-ready"
LOCK = Path("requirements.lock")


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit(
            "tierstream needs Python 3.11 or newer, and {} is {}.{}; say which to use: make PYTHON=/path/to/python3.11".format(
                sys.executable, *sys.version_info[:2]
            )
        )
    STAMP.unlink(missing_ok=True)
    if not works():
        create()
    packages = sum(line[:1].isalnum() for line in LOCK.read_text(encoding="utf-8").splitlines())
    install(f"Installing {packages} packages into {VENV} once", "--require-hashes", "-r", str(LOCK))
    install("Installing tierstream itself", "--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.touch()


def python() -> str:
    return str(VENV / "bin" / "python")


def works() -> bool:
    """Whether an earlier environment is there, whole enough to go on with, and of this version of Python."""
    asked = f"import pip, sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])!r})"
    try:
        return subprocess.run([python(), "-c", asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def create() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode != 0:
        sys.exit(
            f"{sys.executable} can not make a virtual environment; on Debian and Ubuntu the package python3-venv is missing. It says:\n{made.stdout}"
        )


def install(title: str, *arguments: str) -> None:
    """Run pip quietly: one line that counts on a terminal, two lines elsewhere, everything when it fails."""
    terminal = sys.stderr.isatty()
    say(f"{title} ..." if terminal else f"{title} ...\n")
    pip = [python(), "-m", "pip", "install", "--no-input", "--progress-bar", "off", "--disable-pip-version-check", *arguments]
    lines = []  # type: list[str]
    collected = 0
    with subprocess.Popen(pip, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(line)
            word, _, rest = line.strip().partition(" ")
            collected += word == "Collecting"
            if terminal and word in ("Collecting", "Installing"):
                say(f"\r\033[K{title}: " + (f"{collected}, {rest}" if word == "Collecting" else "unpacking"))
    if running.returncode != 0:
        say("\n")
        sys.exit("".join(lines[-20:]) + "pip failed, as shown above; run the same command again to go on from here.")
    say(f"\r\033[K{title}: done\n" if terminal else f"{title}: done\n")


def say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
