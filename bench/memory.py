"""Peak memory of one gradient, over what its warm process holds already. On Linux only, which tells it and lets the peak be set back."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from adaptode import room

from .train_contenders import Contender
from .workloads import Workload

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CALLS = 3


def row(workload: Workload, contender: Contender, dtype: str) -> dict[str, Any]:
    """Bytes by which `CALLS` gradients raise the process's resident memory at its highest; to be called in a process of its own."""
    tolerance = workload.tolerances_of(dtype)[0]
    about = {"kind": "memory", "workload": workload.key, "tolerance": tolerance, "dtype": dtype, "threads": 1, "contender": contender.key}
    if not sys.platform.startswith("linux"):
        return about | {"failed": "peak memory is measured on Linux only"}
    try:
        case = contender.prepare(workload, dtype, tolerance, 1)
        for _ in range(2):
            case.gradient()
        return about | {"bytes": peak(case.gradient)}
    except Exception as error:  # any library, any fault
        return about | {"failed": f"{type(error).__name__}: {error}"}


def peak(call: Any) -> int:
    """Bytes; what adaptode and free() have kept for later is returned to the system first."""
    gc.collect()
    room.forget()
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    CLEAR.write_text("5", encoding="ascii")
    before = _status("VmRSS")
    for _ in range(CALLS):
        call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
