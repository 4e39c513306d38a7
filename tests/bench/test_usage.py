"""What a process holds is what is its alone."""

import mmap

import psutil

from bench.usage import _own_bytes

MIB = 2**20


def test_shared_memory_is_no_process_s_own_though_only_one_has_touched_it() -> None:
    this = psutil.Process()
    before = _own_bytes(this)
    shared = mmap.mmap(-1, 64 * MIB)
    shared.write(b"x" * (64 * MIB))
    with_shared = _own_bytes(this)
    own = bytearray(b"x" * (64 * MIB))
    with_own = _own_bytes(this)

    assert with_shared - before < 32 * MIB
    assert with_own - with_shared > 32 * MIB
    shared.close()
    del own
