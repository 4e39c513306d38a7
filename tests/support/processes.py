"""Looking at, and ending, real processes."""

import psutil

from tests.support.wait import until


def child_pids(pid: int) -> list[int]:
    """The direct children of a process that run now; none when it has ended itself."""
    try:
        return [child.pid for child in psutil.Process(pid).children() if is_alive(child.pid)]
    except psutil.NoSuchProcess:
        return []


def is_alive(pid: int) -> bool:
    """It runs, or is stopped; a zombie that nobody has reaped yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sigkill(pid: int) -> None:
    """SIGKILL, and the kernel has ended it when this returns."""
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return
    until(lambda: not is_alive(pid), what=f"process {pid} to end")


def freeze(pid: int) -> None:
    """SIGSTOP: it keeps its connections and locks and does nothing, until `thaw`."""
    psutil.Process(pid).suspend()


def thaw(pid: int) -> None:
    """SIGCONT after `freeze`."""
    psutil.Process(pid).resume()


def listening(pid: int) -> set[tuple[str, int]]:
    """The (address, port) pairs a process listens on."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
