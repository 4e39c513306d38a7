"""`python -m bench NAME`: one benchmark of the whole platform on this machine.

Each checks the books afterwards: the exit code is 1 if anything is unaccounted, and for some if a
target is missed.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from bench import (
    backlog,
    burst,
    dropping,
    history,
    hostile,
    idle,
    latency,
    machine,
    profile,
    scale,
    soak,
    steps,
    throughput,
    transactional,
)
from bench.report import show
from bench.seed import NoRoom

_ALL: dict[str, ModuleType] = {
    "throughput": throughput,
    "transactional": transactional,
    "latency": latency,
    "steps": steps,
    "backlog": backlog,
    "history": history,
    "dropping": dropping,
    "burst": burst,
    "hostile": hostile,
    "scale": scale,
    "idle": idle,
    "soak": soak,
    "profile": profile,
    "machine": machine,
}


def main() -> int:
    """The exit code of the benchmark asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, module in _ALL.items():
        summary = (module.__doc__ or "").splitlines()[0]
        one = names.add_parser(name, help=summary, description=module.__doc__)
        one.add_argument("--json", action="store_true", help="one line for scripts")
        one.add_argument(
            "--background", type=Path, metavar="FILE", help="leave it running, its output in FILE"
        )
        module.add_options(one)
    options = parser.parse_args()
    if options.background:
        return _in_background(options.background)
    try:
        result = _ALL[options.benchmark].run(options)
    except NoRoom as error:
        print(error, file=sys.stderr)
        return 2
    show(result, as_json=options.json)
    return int(result.exit_code)


def _in_background(file: Path) -> int:
    arguments = iter(sys.argv[1:])
    rest = []
    for argument in arguments:
        if argument == "--background":
            next(arguments)
        elif not argument.startswith("--background="):
            rest.append(argument)
    with file.open("w") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "bench", *rest],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(f"running as process {started.pid}; its progress and result: tail -f {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
