"""Makes the virtual environment for `make`: python3 deploy/venv.py FOLDER. Runs on whatever python3 there is."""

import subprocess
import sys

OLDEST = (3, 11)
NEWEST = (3, 14)


def main(folder: str) -> int:
    here = sys.version_info[:2]
    if not OLDEST <= here <= NEWEST:
        sys.exit(
            "error: Warren needs Python 3.11 to 3.14 and python3 is {}.{}; "
            "name another one: make up PYTHON=python3.13".format(*here)
        )
    try:
        import ensurepip  # noqa: F401 # Debian ships it in a package of its own
    except ImportError:
        sys.exit(
            "error: this Python can't make virtual environments; install its venv package "
            "(sudo apt-get install python3-venv)"
        )
    return subprocess.call([sys.executable, "-m", "venv", folder])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
