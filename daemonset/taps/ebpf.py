"""eBPF for socket filters: classic programs translated, with a map besides, and loaded by plain bpf(2).

A node has no compiler, and needs none: what `bpf.py` writes down for the classic machine is translated instruction by
instruction, as the kernel does it itself (net/core/filter.c, bpf_convert_filter). A is r0, X is r7, the packet r6; the
words of M lie on the stack. Three more instructions work on a map whose keys have ten words:

    KEY     key[k] = A
    REMEMBER   the key is in the map, with the count 0
    COUNT   A = 0 where the key is not in the map, else its count, from 1 on, which is one more the next time

Loading takes CAP_BPF, or CAP_SYS_ADMIN on old kernels, in the initial user namespace: whoever has it not gets
PermissionError, and uses the classic program.

This file knows nothing of what any program is for.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from daemonset.taps import bpf
from daemonset.taps.bpf import Op

#: Codes of `bpf.Op` besides those of the classic machine.
KEY, REMEMBER, COUNT = 0x100, 0x101, 0x102
KEY_WORDS = 10

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}  # of bpf(2)
_MAP_CREATE, _PROG_LOAD = 0, 5
_LRU_HASH, _SOCKET_FILTER = 9, 1
_SO_ATTACH_BPF = 50
_MAP_LOOKUP, _MAP_UPDATE = 1, 2  # helpers
_LICENSE = b"MIT\0"
_INSTRUCTION = struct.Struct("=BBhi")  # struct bpf_insn

# Operation codes (linux/bpf.h, linux/bpf_common.h); the 32-bit forms where there are two.
_MOV, _MOV_X, _MOV64_X, _ADD64, _ADD64_X = 0xB4, 0xBC, 0xBF, 0x07, 0x0F
_LOAD, _STORE_X, _STORE = 0x61, 0x63, 0x62  # of a word
_LOAD_MAP, _CALL, _EXIT, _SWAP, _ATOMIC_ADD = 0x18, 0x85, 0x95, 0xDC, 0xC3
_JUMP, _EQUAL64 = 0x05, 0x15
_CONDITIONS = {bpf.JEQ: 0x16, bpf.JGT: 0x26, bpf.JGE: 0x36, bpf.JSET: 0x46}  # BPF_JMP32
_A, _X, _PACKET, _KEPT, _FRAME = 0, 7, 6, 8, 10
_PSEUDO_MAP = 1
_FROM_MAP = 16  # bits that BPF_END turns to big-endian: those of an ethertype

_MEMORY, _KEY_AT, _VALUE_AT = -64, -104, -108  # from the frame pointer
_ANCILLARY = {bpf.AD_PROTOCOL: 16, bpf.AD_PKTTYPE: 4, bpf.AD_IFINDEX: 40}  # offsets in struct __sk_buff
_LOADS = frozenset({bpf.LD_W, bpf.LD_H, bpf.LD_B})
_INDEXED = frozenset({bpf.IND_W, bpf.IND_H, bpf.IND_B})


class _Step(NamedTuple):
    """One eBPF instruction; `to` names where a jump leads."""

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    to: str = ""


class Map:
    """A hash of connections that forgets the one that was used least recently. Raises OSError where it is refused."""

    def __init__(self, entries: int) -> None:
        attributes = struct.pack("=IIIII", _LRU_HASH, 4 * KEY_WORDS, 4, entries, 0)
        self.descriptor = _call(_MAP_CREATE, attributes)

    def close(self) -> None:
        """Programs that use it keep it."""
        os.close(self.descriptor)


def load(ops: Sequence[Op], memory: Map) -> int:
    """A descriptor of the program, as the kernel takes it. Raises OSError."""
    code = translate(ops, memory.descriptor)
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQ", _SOCKET_FILTER, len(code) // _INSTRUCTION.size,
        ctypes.addressof(instructions), ctypes.addressof(license_),
    )  # fmt: skip
    return _call(_PROG_LOAD, attributes)


def attach(sock: socket.socket, program: int) -> None:
    """Filter the socket's packets by a loaded program, which the socket keeps. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)


def _call(command: int, attributes: bytes) -> int:
    """bpf(2); the kernel takes what is missing at the end of the attributes for zeros."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) on {platform.machine()} is not known")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def translate(ops: Sequence[Op], memory: int) -> bytes:
    """A program for the classic machine, with those three besides, in bytes; `memory`: the map."""
    steps: list[_Step] = [
        _Step(_MOV64_X, _PACKET, 1),
        _Step(_MOV, _A),
        _Step(_MOV, _X),
        *(_Step(_STORE, _FRAME, offset=_MEMORY + 4 * cell) for cell in range(16)),
    ]
    at: dict[str, int] = {}
    for op in ops:
        if op.label:
            assert op.label not in at, f"{op.label} is there twice"
            at[op.label] = len(steps)
        steps += _steps(op, memory)
    return b"".join(_encode(step, number, at) for number, step in enumerate(steps))


def _encode(step: _Step, number: int, at: dict[str, int]) -> bytes:
    offset = step.offset
    if step.to:
        offset = at[step.to] - number - 1
        assert offset >= 0, f"a jump back to {step.to}"
    value = step.value - (1 << 32) if step.value >= 1 << 31 else step.value
    return _INSTRUCTION.pack(step.code, step.source << 4 | step.target, offset, value)


def _steps(op: Op, memory: int) -> Iterator[_Step]:
    """One instruction of the classic machine."""
    code, k = op.code, op.k
    cell = _MEMORY + 4 * k
    if code in _LOADS and k in _ANCILLARY:
        yield _Step(_LOAD, _A, _PACKET, _ANCILLARY[k])
        if k == bpf.AD_PROTOCOL:
            yield _Step(_SWAP, _A, value=_FROM_MAP)
    elif code in _LOADS:
        yield _Step(code, value=k)
    elif code in _INDEXED:
        yield _Step(code, source=_X, value=k)
    elif code in _CONDITIONS:
        if op.yes:
            yield _Step(_CONDITIONS[code], _A, value=k, to=op.yes)
            if op.no:
                yield _Step(_JUMP, to=op.no)
        elif op.no:
            yield _Step(_CONDITIONS[code], _A, offset=1, value=k)
            yield _Step(_JUMP, to=op.no)
    elif code == bpf.JA:
        yield _Step(_JUMP, to=op.yes)
    elif code in {bpf.LD_MEM, bpf.LDX_MEM}:
        yield _Step(_LOAD, _A if code == bpf.LD_MEM else _X, _FRAME, cell)
    elif code in {bpf.ST, bpf.STX}:
        yield _Step(_STORE_X, _FRAME, _A if code == bpf.ST else _X, cell)
    else:
        yield from _others(code, k, memory)


def _others(code: int, k: int, memory: int) -> Iterator[_Step]:
    """What neither loads nor stores nor jumps."""
    if code in {bpf.LD_IMM, bpf.LDX_IMM}:
        yield _Step(_MOV, _A if code == bpf.LD_IMM else _X, value=k)
    elif code == bpf.LD_LEN:
        yield _Step(_LOAD, _A, _PACKET)
    elif code in {bpf.TAX, bpf.TXA}:
        yield _Step(_MOV_X, *((_X, _A) if code == bpf.TAX else (_A, _X)))
    elif code in {bpf.RET, bpf.RET_A}:
        if code == bpf.RET:
            yield _Step(_MOV, _A, value=k)
        yield _Step(_EXIT)
    elif code in {bpf.ADD_X, bpf.SUB_X}:
        yield _Step(code, _A, _X)
    elif code == KEY:
        yield _Step(_STORE_X, _FRAME, _A, _KEY_AT + 4 * k)
    elif code in {REMEMBER, COUNT}:
        yield from _use_map(code, memory)
    else:
        yield _Step(code, _A, value=k)


def _use_map(code: int, memory: int) -> Iterator[_Step]:
    yield from (_Step(_MOV64_X, 2, _FRAME), _Step(_ADD64, 2, value=_KEY_AT))
    yield from (_Step(_LOAD_MAP, 1, _PSEUDO_MAP, value=memory), _Step(0))
    if code == REMEMBER:
        yield _Step(_STORE, _FRAME, offset=_VALUE_AT)
        yield from (_Step(_MOV64_X, 3, _FRAME), _Step(_ADD64, 3, value=_VALUE_AT), _Step(_MOV, 4))
        yield from (_Step(_CALL, value=_MAP_UPDATE), _Step(_MOV, _A))
        return
    yield _Step(_CALL, value=_MAP_LOOKUP)
    yield _Step(_EQUAL64, _A, offset=5)  # no such key: A is 0
    yield from (_Step(_LOAD, _KEPT, _A), _Step(_MOV, 1, value=1), _Step(_ATOMIC_ADD, _A, 1))
    yield from (_Step(_MOV_X, _A, _KEPT), _Step(bpf.ADD, _A, value=1))
