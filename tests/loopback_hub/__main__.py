"""Serve a hub with one user, `demo`, for a command or until Ctrl-C.

    PYTHONPATH=tests python -m loopback_hub -- python scripts/push.py --help
    PYTHONPATH=tests python -m loopback_hub --keep demo/hub

A command gets the environment by which every client uses this hub, logged in as `demo`, and its exit status is the
hub's. Without one, the lines are printed that a shell needs. Caches are in a folder that is gone at the end.
"""

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from loopback_hub.hub import LoopbackHub
from loopback_hub.repos import PREFIXES


def main(arguments: list[str]) -> int:
    """Exit status of the command; 0 without one."""
    own, command = arguments, []
    if "--" in arguments:
        split = arguments.index("--")
        own, command = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(
        "loopback_hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the repositories' files there at the end")
    parser.add_argument("--no_xet", action="store_true", help="let clients upload by plain LFS")
    options = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="loopback_hub_") as home, LoopbackHub() as hub:
        token = hub.add_user("demo")
        if command:
            status = subprocess.run(command, env=hub.environment(token, home, not options.no_xet)).returncode
        else:
            status = _wait(hub.variables(token, home, not options.no_xet))
        if options.keep is not None:
            keep(hub, options.keep)
    return status


def _wait(variables: dict[str, str]) -> int:
    """Print how a shell comes to use the hub, and wait for Ctrl-C or SIGTERM, which may come as soon as it is read."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    print("# serving until Ctrl-C", flush=True)
    end.wait()
    return 0


def keep(hub: LoopbackHub, folder: Path) -> None:
    """Write each repository's files of its main branch under `folder`, in place of what an earlier time left of it."""
    for repo_type, repo_id in sorted(hub.repos):
        target = folder / PREFIXES[repo_type] / repo_id
        shutil.rmtree(target, ignore_errors=True)
        for path, data in hub.repo(repo_id, repo_type).files().items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
