"""Scale: the same flood with 1, 2 and 4 worker children, and with two apis."""

import argparse

from bench.report import Result, progress
from bench.rig import Rig
from bench.throughput import sustained

SHAPES = ((1, 1), (1, 2), (1, 4), (2, 2))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape")


def run(options: argparse.Namespace) -> Result:
    """Each shape on a platform of its own."""
    figures, all_books = [], []
    for apis, children in SHAPES:
        progress(f"{apis} apis, {children} worker children")
        with Rig(apis=apis, children=children) as rig:
            _, rates = sustained(rig, options.seconds)
            all_books.append(rig.books())
        figures.append({"apis": apis, "worker children": children, **rates})
    return Result(
        benchmark="scale",
        settings={"seconds": options.seconds},
        figures=figures,
        books=all_books[-1],
        is_as_promised=all(books.balance for books in all_books),
    )
