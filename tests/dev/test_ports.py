"""A server keeps its port, and no outgoing connection can take it."""

import socket
from pathlib import Path
from typing import Any

from veltrix.dev.run import _choose_ports
from veltrix.dev.servers.ports import LOOPBACK, Claims, free_port, is_free, kept_ports
from veltrix.settings.fields import Settings


def test_a_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    assert all(free_port() < lowest for _ in range(20))


def test_a_taken_port_is_replaced() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]

        assert not is_free(taken)
        assert free_port(taken) != taken


def test_two_that_choose_at_the_same_time_get_different_ports() -> None:
    wanted = free_port()
    one, other = Claims(), Claims()

    assert one.port(wanted) == wanted
    assert other.port(wanted) != wanted

    one.close()
    assert other.port(wanted) == wanted
    other.close()


def test_ports_are_kept_from_one_start_to_the_next_while_they_are_free(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = kept_ports(path, ("amqp", "management"))
    with socket.create_server((LOOPBACK, first["amqp"])):
        second = kept_ports(path, ("amqp", "management"))

    assert len(set(first.values())) == 2
    assert second["management"] == first["management"]
    assert second["amqp"] not in first.values()
    assert kept_ports(path, ("amqp", "management")) == second


def test_a_dev_whose_usual_ports_are_taken_keeps_the_others_it_chose(tmp_path: Path) -> None:
    """Bookmarks and the producers' `.env` stay right from one start to the next."""
    said: list[str] = []
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        settings = Settings(api_port=taken, relay_port=0, worker_port=0, flower_port=0)

        def choose() -> dict[Any, int]:
            claims = Claims()
            try:
                kept = tmp_path / "ports.json"
                return _choose_ports(kept, settings, claims, lambda *line: said.append(line[1]))
            finally:
                claims.close()

        first = choose()

        assert choose() == first
        assert said == [f"port {taken} is taken; using {first['api']}"] * 2
    assert len(set(first.values())) == 4
