"""What the console serves of others is what they released, and is said so."""

import re
from hashlib import sha256

from veltrix.console.rendering import STATIC


def test_every_file_of_others_is_the_released_one_with_its_licence() -> None:
    page = (STATIC / "ASSETS.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+) \| .* \| ([0-9a-f]{64}) \|$", page, re.MULTILINE))

    ours = {"console.css", "console.js", "veltrix.svg", "ASSETS.md"}
    there = {path.name for path in STATIC.iterdir() if not path.name.endswith(".LICENSE.txt")}
    assert listed.keys() == there - ours
    for name, digest in listed.items():
        assert sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
        assert (STATIC / f"{name.partition('.')[0]}.LICENSE.txt").stat().st_size > 500, name
