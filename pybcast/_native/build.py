# SPDX-License-Identifier: Apache-2.0
"""How the C core becomes an extension module: setuptools runs ``ffibuilder`` (``cffi_modules`` in ``setup.py``).

The declarations are read from the marked region of ``bcast.h``, so that nothing of it is written down twice.  The sources of the
library are compiled in; libcrypto is linked; intel-ipsec-mb only needs its header, it is loaded when it is asked for.

``PYBCAST_SANITIZE=1`` builds with AddressSanitizer and UndefinedBehaviorSanitizer (``make sanitize``).
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from cffi import FFI

HERE: Final = Path("pybcast", "_native")
CSRC: Final = Path("csrc")
HEADER: Final = CSRC / "include" / "bcast.h"
IPSEC_MB: Final = CSRC / "src" / "crypto_ipsec_mb.c"
SANITIZERS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g")

HELPERS: Final = """
typedef struct pybcast_frame {
    bcast_provider *provider;
    void *message;
    uint8_t *out;
    size_t room;
    const bcast_answered *answered;
    bcast_error error;
} pybcast_frame;
int64_t pybcast_seal_drm(pybcast_frame *frame, const bcast_drm_key *key, const uint8_t *base, size_t base_length);
int64_t pybcast_seal_stkm(pybcast_frame *frame, const bcast_smartcard_key *key, const uint8_t *base, size_t base_length);
int64_t pybcast_seal_ltkm(pybcast_frame *frame, const bcast_smk *key, const uint8_t *base, size_t base_length);
int64_t pybcast_seal_verification(pybcast_frame *frame, const bcast_smk *key, const uint8_t *base, size_t base_length);
int64_t pybcast_partial_drm(pybcast_frame *frame, const uint8_t *base, size_t base_length);
int64_t pybcast_partial_stkm(pybcast_frame *frame, const uint8_t *base, size_t base_length);
void pybcast_seal_jobs_drm(bcast_drm_seal_job *jobs, size_t count, const bcast_drm_stkm *messages, const uint8_t *keys,
                           size_t key_count, const uint32_t *which, const uint8_t *base, uint32_t base_length);
void pybcast_seal_jobs_stkm(bcast_smartcard_seal_job *jobs, size_t count, const bcast_smartcard_stkm *messages,
                            const uint8_t *keys, size_t key_count, const uint32_t *which, const uint8_t *base,
                            uint32_t base_length);
void pybcast_seal_jobs_ltkm(bcast_ltkm_seal_job *jobs, size_t count, const bcast_smartcard_ltkm *messages, const uint8_t *keys,
                            size_t key_count, const uint32_t *which, const uint8_t *base, uint32_t base_length);
void pybcast_open_jobs_drm(bcast_drm_open_job *jobs, size_t count, bcast_drm_stkm *messages, const uint8_t *keys,
                           size_t key_count, const uint32_t *which, const uint8_t *data, size_t data_length,
                           const uint32_t *offsets, const uint32_t *lengths, uint32_t lenient);
void pybcast_open_jobs_stkm(bcast_smartcard_open_job *jobs, size_t count, bcast_smartcard_stkm *messages, const uint8_t *keys,
                            size_t key_count, const uint32_t *which, const uint8_t *data, size_t data_length,
                            const uint32_t *offsets, const uint32_t *lengths, uint32_t lenient);
void pybcast_open_jobs_ltkm(bcast_ltkm_open_job *jobs, size_t count, bcast_smartcard_ltkm *messages, const uint8_t *keys,
                            size_t key_count, const uint32_t *which, const uint8_t *data, size_t data_length,
                            const uint32_t *offsets, const uint32_t *lengths, uint32_t lenient);
int pybcast_smks_init(uint8_t *place, size_t count, bcast_provider *provider, const uint8_t *smks);
void pybcast_column_set(uint8_t *to, size_t stride, const uint8_t *from, size_t step, size_t width, size_t count);
void pybcast_column_get(uint8_t *to, const uint8_t *from, size_t stride, size_t width, size_t count);
const char *pybcast_libcrypto_version(void);
unsigned pybcast_libcrypto_number(void);
"""


def declarations() -> str:
    """The marked region of ``bcast.h``; macros that name a size become constants that the compiler fills in."""
    text = HEADER.read_text("utf-8")
    begin, end = text.index("/* cdef begin */"), text.index("/* cdef end */")
    return re.sub(r"(?m)^(#define \w+) .*$", r"\1 ...", text[begin:end])


def has_header(name: str, condition: str = "1") -> bool:
    """Whether the compiler finds ``<name>`` and, having read it, holds ``condition`` true."""
    source = f"#include <{name}>\n#if !({condition})\n#error\n#endif\n"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = [*shlex.split(os.environ.get("CPPFLAGS", "")), *shlex.split(os.environ.get("CFLAGS", ""))]
    try:
        done = subprocess.run(
            [*compiler, *flags, f"-I{sysconfig.get_path('include')}", "-E", "-x", "c", "-"],
            input=source.encode(), capture_output=True, check=False,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


def missing() -> str | None:
    """One line that says what this machine lacks to build the C core, or ``None``."""
    if not has_header("stddef.h") or not has_header("stdio.h"):
        return "a C compiler and the C library's headers are needed [Debian: gcc libc6-dev]"
    if not has_header("Python.h"):
        return "the headers of this Python are needed [Debian: python3-dev]"
    if not has_header("openssl/evp.h"):
        return "the headers of libcrypto 3.0.3 or later are needed [Debian: libssl-dev]"
    if not has_header("openssl/opensslv.h", "OPENSSL_VERSION_NUMBER >= 0x30000030L"):
        return "libcrypto is older than 3.0.3 [Debian 12 or later: libssl-dev]"
    return None


def options() -> dict[str, Any]:
    """What the compiler and the linker are told.  No warning flags: those are for us, in ``csrc/Makefile``."""
    sources, macros, libraries = sorted(CSRC.glob("src/*.c")), [], ["crypto"]
    compile_args, link_args = ["-std=c11", "-fvisibility=hidden"], []
    if platform.machine() == "x86_64" and has_header("intel-ipsec-mb.h", "defined(__x86_64__)"):
        macros.append(("BCAST_WITH_IPSEC_MB", "1"))
        libraries.append("dl")
    else:
        sources.remove(IPSEC_MB)
    if sys.platform == "linux":  # bcast.h asks for its names to be exported, which is right for a library; an extension has one
        link_args.append(f"-Wl,--version-script={HERE / 'exports.map'}")
    if os.environ.get("PYBCAST_SANITIZE") == "1":
        compile_args += SANITIZERS
        link_args += SANITIZERS[:1]
    return {
        "sources": [str(path) for path in sources],
        "include_dirs": [str(CSRC / "include"), str(CSRC / "src"), str(HERE)],
        "define_macros": macros,
        "libraries": libraries,
        "extra_compile_args": compile_args,
        "extra_link_args": link_args,
        "depends": [str(path) for path in (HEADER, HERE / "helpers.h", HERE / "exports.map", *sorted(CSRC.glob("src/*.[ch]")))],
    }


def benchmark_options() -> dict[str, Any]:
    """The measurement of ``csrc/bench`` with the core it measures, whose own primitives are the floor."""
    found = options()
    found["sources"].append(str(CSRC / "bench" / "bench.c"))
    found["define_macros"].append(("main", "pybcast_bench_main"))
    return found


ffibuilder = FFI()
ffibuilder.cdef(declarations() + HELPERS)
ffibuilder.set_source("pybcast._native._bcast", '#include "bcast.h"\n#include "helpers.h"\n', **options())

benchmark = FFI()
benchmark.cdef("int pybcast_bench_main(int argc, char **argv);")
benchmark.set_source("pybcast._native._bench", "int pybcast_bench_main(int argc, char **argv);\n", **benchmark_options())
