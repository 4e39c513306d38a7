"""A process that was told to leave is gone in time, and says what hung."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S, SPARE_S = 0.5, 3.0
HANGS = {
    "a lock": ("held = threading.Lock(); held.acquire(); held.acquire()", 0),
    "a peer": ("a, b = socket.socketpair(); a.recv(1)", 0),
    "C code that keeps the interpreter": ("lock(MUTEX); lock(MUTEX)", 1),
    "the end itself": ("hangs = True; time.sleep(60)", -signal.SIGALRM),
}
CODE = """
import ctypes, socket, sys, threading, time
from veltrix.leaving import end_within
lock, MUTEX = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
hangs = False
def last():
    print("last", flush=True)
    if hangs:
        threading.Event().wait(60)
def stuck():
    global hangs
    print("stuck", flush=True)
    {hang}
end_within({limit}, last)
end_within(60)
stuck()
"""


def test_a_process_ends_in_time_whatever_hangs() -> None:
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", CODE.format(hang=hang, limit=LIMIT_S)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (hang, _) in HANGS.items()
    }
    for one in processes.values():
        assert one.stdout is not None
        assert one.stdout.readline() == "stuck\n"
    began = time.monotonic()
    said = {name: one.communicate(timeout=20) for name, one in processes.items()}

    assert time.monotonic() - began < LIMIT_S + SPARE_S
    assert {name: one.returncode for name, one in processes.items()} == {
        name: code for name, (_, code) in HANGS.items()
    }
    for name, (out, err) in said.items():
        assert ("last" in out) == (name != "C code that keeps the interpreter"), name
        assert ("in stuck" in err) == (name != "the end itself"), name


def test_it_ends_in_time_without_standard_error_too() -> None:
    hang, _ = HANGS["C code that keeps the interpreter"]
    code = "import sys; sys.stderr = None\n" + CODE.format(hang=hang, limit=LIMIT_S)

    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=20)

    assert ended.returncode == 1


IMPORTED = {
    "api": "veltrix.processes.api",
    "relay": "veltrix.processes.relay",
    "worker": "veltrix.processes.worker",
    "flower": "veltrix.commands.flower",
}
BEGIN = """
import builtins, os, signal
imported = builtins.__import__
def ended(name, *rest, **more):
    if name == {first!r}:
        os.kill(os.getpid(), {number})
    return imported(name, *rest, **more)
builtins.__import__ = ended
from veltrix.commands import processes
processes.{kind}()
"""
REPLACED = """
import signal, sys
from veltrix.settings.fields import Settings
from veltrix.processes.worker import start
said = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
sys.orig_argv = [sys.executable, "-c", said]
start(Settings)
"""


def test_a_signal_is_heard_before_there_is_anything_to_finish(tmp_path: Path) -> None:
    for number, (kind, first) in zip([15, 15, 15, 2], IMPORTED.items(), strict=True):
        code = BEGIN.format(kind=kind, first=first, number=number)
        ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=20)
        assert ended.returncode == 128 + number, "by a handler: process 1 would live on"

    environment = os.environ | {"TMPDIR": str(tmp_path)}
    replaced = subprocess.check_output(
        [sys.executable, "-c", REPLACED], env=environment, timeout=20
    )
    assert replaced == b"2 15\n", "they wait for the worker that takes this one's place"
