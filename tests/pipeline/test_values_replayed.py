"""A workflow sees the same live and replayed, in another process with another hash seed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.values_in_process import LEAVES

Execute = Callable[[dict[str, Any]], Any]


def of_one(*kinds: str) -> Callable[[st.SearchStrategy[Any]], st.SearchStrategy[Any]]:
    return lambda inner: st.tuples(st.sampled_from(kinds), inner).map(list)


def of_some(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(["tuple", "dataclass", "struct", "model", "namedtuple", "typed"])
    return st.tuples(kinds, st.lists(inner, min_size=1, max_size=3)).map(lambda p: [p[0], *p[1]])


types = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: st.one_of(
        of_one("list", "deque", "dict", "numbered", "optional")(inner),
        of_some(inner),
        st.tuples(st.just("either"), inner, inner).map(list),
    ),
    max_leaves=8,
)


def executor(hash_seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "tests.pipeline.values_in_process"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[Execute, Execute]]:
    """Two of different hash seeds."""
    made = [executor(seed) for seed in ("1", "2")]

    def executing(one: subprocess.Popen[str]) -> Execute:
        def execute(line: dict[str, Any]) -> Any:
            assert one.stdin is not None
            assert one.stdout is not None
            print(json.dumps(line), file=one.stdin, flush=True)
            return json.loads(one.stdout.readline())

        return execute

    yield executing(made[0]), executing(made[1])
    for one in made:
        one.communicate()


def check(processes: tuple[Execute, Execute], spec: Any, seed: int) -> None:
    first, other = processes
    live = first({"spec": spec, "seed": seed, "journal": {}})
    assert (live["state"], live["reason"]) == ("succeeded", None)
    assert live["ran"] == 5

    # As after a crash at each point: what is done before it comes from the journal.
    for count in range(1, 6):
        kept = dict(list(live["journal"].items())[:count])
        again = other({"spec": spec, "seed": seed, "journal": kept})

        assert (again["state"], again["reason"]) == ("succeeded", None)
        assert again["ran"] == 5 - count
        assert again["seen"][0] == live["seen"][0]
        # A step that is run again may order a set that nobody called one as it likes.
        if [name for name, *_ in kept.values()].count("give") == 2:
            assert again["seen"] == live["seen"]
            assert digests(again) == digests(live)


def digests(execution: Any) -> dict[str, Any]:
    return {position: entry[1] for position, entry in execution["journal"].items()}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(types, st.integers(0, 2**32))
def test_values_of_any_type_are_the_same_live_and_replayed(
    processes: tuple[Execute, Execute], spec: Any, seed: int
) -> None:
    check(processes, spec, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck))
@given(types, st.integers(0, 2**32))
def test_values_of_very_many_types_are_the_same_live_and_replayed(
    processes: tuple[Execute, Execute], spec: Any, seed: int
) -> None:
    check(processes, spec, seed)
