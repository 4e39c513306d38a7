"""Places among those who wait are for everybody."""

from contextlib import ExitStack

import pytest

from veltrix.api.outcomes import OutcomeWatch
from veltrix.web.auth import LOCAL, Author
from veltrix.web.problems import Problem


def watch() -> OutcomeWatch:
    """With ten places."""
    return OutcomeWatch(lambda _ids: (), 10, lambda: False)


def test_a_key_has_half_of_the_places_and_leaves_them_as_it_came() -> None:
    one, other = (Author(name, frozenset()) for name in ("one", "other"))
    places = watch()
    for _ in range(2):
        with ExitStack() as held:
            for _ in range(5):
                held.enter_context(places.place(one))
            with pytest.raises(Problem, match="5 requests of yours wait") as refused:
                held.enter_context(places.place(one))
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
            for _ in range(5):
                held.enter_context(places.place(other))


def test_where_nobody_has_a_key_all_places_are_for_all() -> None:
    places = watch()
    with ExitStack() as held:
        for _ in range(10):
            held.enter_context(places.place(LOCAL))
        with pytest.raises(Problem, match="10 requests of yours wait"):
            held.enter_context(places.place(LOCAL))
