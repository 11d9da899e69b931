"""Page faults of a program on CPU, as the kernel counts them, before and after `keep_scratch`."""

import json
import os
import platform
import subprocess
import sys

import pytest

# Between two limits of glibc's: blocks over 32 MiB never come from its heap by default, and a thread's own heap is 64 MiB.
MIB = 40

# In a process of its own, since the C library's options cannot be taken back.
COUNT = f"""
import ctypes, json, resource, statistics
import jax, jax.numpy as jnp
from ssljax.train.scratch import keep_scratch

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE of linux/prctl.h: huge pages would hide most faults
double = jax.jit(lambda x: 2 * x)
x = jnp.ones({MIB} * 2**18, jnp.float32)

def faults():
    count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    each = []
    for _ in range(40):
        before = count()
        double(x).block_until_ready()
        each.append(count() - before)
    return statistics.median(each[20:])  # the heap grows to its size in the first calls

before = faults()
keep_scratch()
print(json.dumps([before, faults()]))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="the C library is not glibc of Linux"
)
def test_a_kept_block_is_not_faulted_in_again():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN"))}
    environment |= {"JAX_PLATFORMS": "cpu"}
    environment.pop("LD_PRELOAD", None)  # another malloc
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    pages = MIB * 2**20 / os.sysconf("SC_PAGE_SIZE")
    # Measured with pages of 4 KiB, of which the block has 10,240: 10,241 faults a call before, 0 or 1 after.
    assert before > pages / 5
    assert after < pages / 100
