"""Becomes a program of the stack: run by supervisor for each start, and by `invoke exec`.

    python -I -S launch.py run FILE [DIGEST]      the program that FILE describes
    python -I -S launch.py exec FILE COMMAND...   COMMAND with that program's environment and folder

FILE is JSON: arguments, environment, path, directory, record. The environment stands in a file because supervisor's
configuration can't hold every value, and an `env NAME=value` would show passwords to everyone who can list processes.
DIGEST is not read: it makes supervisor see that something behind the same command changed.

Only modules that Python has loaded anyway, or nearly so, are imported: this runs before each start.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys

# Variables of the operator's shell that would change what the programs do; whatever they need is in FILE.
FOREIGN = (
    *("RABBITMQ_", "ERL_", "CELERY_", "FLOWER_", "MONITOR_", "WARREN_", "SUPERVISOR_"),
    *("PYTHONPATH", "PYTHONHOME", "NOTIFY_SOCKET"),
)

# Open files. The broker wants thousands, many systems give 1024; far more makes Erlang reserve memory for each.
OPEN_FILES = 65_536


def cleaned(environment: dict[str, str]) -> dict[str, str]:
    """``environment`` without what may break RabbitMQ or Celery."""
    return {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}


def started(pid: int) -> str:
    """When process ``pid`` started, in the system's own words; empty where there is no such process, or only its exit code.

    A pid alone does not tell a process from a later one that got the same number.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib takes longer to import than this file to run
            # The second field is the program's name in brackets, which may itself hold spaces and brackets.
            fields = file.read().rpartition(b")")[2].split()
        return "" if fields[0] in {b"Z", b"X"} else fields[19].decode()
    except ProcessLookupError:
        return ""
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):  # noqa: PTH110
            return ""
    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    state, _, time = listed.strip().partition(" ")
    return "" if state.startswith("Z") else time.strip()


def group(leader: int) -> list[int]:
    """The processes of the process group that ``leader`` made."""
    if not os.path.exists("/proc/self/stat"):  # noqa: PTH110
        listed = subprocess.run(["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False).stdout
        rows = [line.split() for line in listed.splitlines()]
        return [int(pid) for pid, pgid, state in rows if int(pgid) == leader and not state.startswith("Z")]
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] not in {b"Z", b"X"}:
                found.append(int(entry))
    return found


def boot() -> str:
    """What tells this run of the host from others; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def leftovers(record: str) -> list[int]:
    """The processes that still run of the program whose start ``record`` notes."""
    try:
        with open(record) as file:  # noqa: PTH123
            noted = json.load(file)
    except (OSError, ValueError):
        return []
    if noted.get("boot", boot()) != boot():
        # Before a restart of the host: the numbers belong to others now.
        return []
    pid, then = noted["pid"], noted["started"]
    # While a group has members, no new process gets its number: a leader that started later leads another group.
    return group(pid) if started(pid) in {"", then} else []


def note(record: str) -> None:
    """Notes this process, which leads its own group, as the program that runs now."""
    part = record + ".part"
    with open(part, "w") as file:  # noqa: PTH123
        json.dump({"pid": os.getpid(), "started": started(os.getpid()), "boot": boot()}, file)
    os.replace(part, record)  # noqa: PTH105


def main(mode: str, file: str, *command: str) -> None:
    with open(file) as stream:  # noqa: PTH123
        program = json.load(stream)
    environment = {**cleaned(dict(os.environ)), **program["environment"]}
    environment["PATH"] = os.pathsep.join([*program["path"], environment.get("PATH", os.defpath)])
    if mode == "run":
        # Pool processes of a worker that was killed finish their task otherwise, while another worker runs it again.
        for pid in leftovers(program["record"]):
            os.kill(pid, signal.SIGKILL)
        # What a killed worker left says nothing of the next one.
        for name in ("ready", "alive") if "WARREN_HEALTH_DIR" in environment else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{environment['WARREN_HEALTH_DIR']}/{name}")  # noqa: PTH108
        note(program["record"])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        command = tuple(program["arguments"])
    os.chdir(program["directory"])
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - a shell is what this must not be
    except OSError as error:
        sys.stderr.write(f"error: {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
