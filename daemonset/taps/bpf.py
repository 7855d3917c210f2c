"""Classic BPF: an assembler with labels, and an interpreter that says what the kernel would answer.

The machine (linux/filter.h, Documentation/networking/filter.rst): an accumulator A, an index register X,
sixteen words of memory M, forward jumps only. A load outside of the packet ends the program with 0, "reject".
The value that a program returns is the number of bytes to keep.

Here a program is written down as a list of `Op`, with names for the places that are jumped to. `assemble`
turns names into offsets; conditional jumps reach 255 instructions, farther ones are led over an unconditional
jump.

This file knows nothing of what any program is for.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_FARTHEST = 255  # jt and jf are bytes
_WORD = 0xFFFF_FFFF

# Opcodes, class | size or operation | mode or source (linux/bpf_common.h).
LD_W, LD_H, LD_B = 0x20, 0x28, 0x30  # A = packet[k], big-endian
IND_W, IND_H, IND_B = 0x40, 0x48, 0x50  # A = packet[X + k]
LD_IMM, LD_LEN, LD_MEM = 0x00, 0x80, 0x60  # A = k, the packet's length, M[k]
LDX_IMM, LDX_MEM = 0x01, 0x61  # X = k, M[k]
ST, STX = 0x02, 0x03  # M[k] = A, X
ADD, SUB, MUL, OR, AND, LSH, RSH = 0x04, 0x14, 0x24, 0x44, 0x54, 0x64, 0x74  # A op= k
ADD_X, SUB_X = 0x0C, 0x1C  # A op= X
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45  # compare A with k
RET, RET_A = 0x06, 0x16
TAX, TXA = 0x07, 0x87

# Offsets of LD that address what the kernel knows besides the bytes (SKF_AD_OFF, linux/filter.h).
_ANCILLARY = 0x1_0000_0000 - 0x1000
AD_PROTOCOL = _ANCILLARY + 0  # ethertype
AD_PKTTYPE = _ANCILLARY + 4
AD_IFINDEX = _ANCILLARY + 8

_SIZES = {LD_W: 4, LD_H: 2, LD_B: 1, IND_W: 4, IND_H: 2, IND_B: 1}
_INDEXED = frozenset({IND_W, IND_H, IND_B})
_CONDITIONS = frozenset({JEQ, JGT, JGE, JSET})


class Op(NamedTuple):
    """One instruction. `yes` and `no` name where a jump leads; an empty name means the next instruction.

    `label` names this instruction.
    """

    code: int
    k: int = 0
    yes: str = ""
    no: str = ""
    label: str = ""


class Instruction(NamedTuple):
    """One assembled instruction, as in struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


Program = tuple[Instruction, ...]


class ProgramTooLongError(ValueError):
    """The program has more instructions than the kernel takes."""


def assemble(ops: Sequence[Op]) -> Program:
    """Resolve labels; a name that is not there, twice there or not ahead is a bug.

    Far conditional jumps are replaced by a near one to a `JA`, until no far one is left. Raises
    `ProgramTooLongError`.
    """
    lines = list(ops)
    bridges = count()
    while True:
        at = _positions(lines)
        far = [
            number for number, op in enumerate(lines) if op.code in _CONDITIONS and _is_far(op, number, at)
        ]
        if not far:
            break
        for number in reversed(far):
            lines[number : number + 1] = _bridge(lines[number], next(bridges))
    if len(lines) > _MOST_INSTRUCTIONS:
        raise ProgramTooLongError(
            f"the filter has {len(lines)} instructions, the kernel takes {_MOST_INSTRUCTIONS}"
        )
    return tuple(_encode(op, number, at) for number, op in enumerate(lines))


def attach(sock: socket.socket, program: Program) -> None:
    """Filter the socket's packets from now on. Raises OSError where the kernel refuses the program."""
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer))
    )


def run(program: Program, packet: bytes, *, protocol: int, ifindex: int = 2, pkttype: int = 0) -> int:
    """What the kernel would answer for `packet`: the number of bytes to keep, 0 to reject it."""
    ancillary = {AD_PROTOCOL: protocol, AD_IFINDEX: ifindex, AD_PKTTYPE: pkttype}
    a = x = 0
    memory = [0] * 16
    at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code in _SIZES:
            loaded = ancillary.get(k) if code not in _INDEXED else None
            if loaded is None:
                loaded = _load(packet, k + x if code in _INDEXED else k, _SIZES[code])
            if loaded is None:
                return 0
            a = loaded
        elif code in _CONDITIONS:
            at += jt if _holds(code, a, k) else jf
        elif code == JA:
            at += k
        elif code in {RET, RET_A}:
            return k if code == RET else a
        elif code in {ST, STX}:
            memory[k] = a if code == ST else x
        elif code in {LDX_IMM, LDX_MEM, TAX}:
            x = {LDX_IMM: k, LDX_MEM: memory[k & 15], TAX: a}[code]
        else:
            values = {LD_IMM: k, LD_LEN: len(packet), LD_MEM: memory[k & 15], TXA: x}
            a = values[code] if code in values else _compute(code, a, x if code in {ADD_X, SUB_X} else k)


def _positions(lines: Iterable[Op]) -> dict[str, int]:
    at: dict[str, int] = {}
    for number, op in enumerate(lines):
        if op.label:
            assert op.label not in at, f"{op.label} is there twice"
            at[op.label] = number
    return at


def _distance(name: str, number: int, at: dict[str, int]) -> int:
    if not name:
        return 0
    distance = at[name] - number - 1
    assert distance >= 0, f"a jump back to {name}"
    return distance


def _is_far(op: Op, number: int, at: dict[str, int]) -> bool:
    return max(_distance(op.yes, number, at), _distance(op.no, number, at)) > _FARTHEST


def _bridge(op: Op, number: int) -> list[Op]:
    """`if c goto yes else no` as near jumps to two unconditional ones."""
    no, follow = f"no {number}", f"follow {number}"
    return [
        op._replace(yes="", no=no),
        Op(JA, yes=op.yes or follow),
        Op(JA, yes=op.no or follow, label=no),
        Op(OR, 0, label=follow),  # somewhere to arrive at that changes nothing
    ]


def _encode(op: Op, number: int, at: dict[str, int]) -> Instruction:
    if op.code == JA:
        return Instruction(JA, 0, 0, _distance(op.yes, number, at))
    if op.code in _CONDITIONS:
        return Instruction(op.code, _distance(op.yes, number, at), _distance(op.no, number, at), op.k)
    return Instruction(op.code, 0, 0, op.k)


def _load(packet: bytes, offset: int, size: int) -> int | None:
    if offset + size > len(packet):
        return None
    return int.from_bytes(packet[offset : offset + size], "big")


def _holds(code: int, a: int, k: int) -> bool:
    if code == JEQ:
        return a == k
    if code == JSET:
        return bool(a & k)
    return a >= k if code == JGE else a > k


def _compute(code: int, a: int, operand: int) -> int:
    if code in {ADD, ADD_X}:
        return a + operand & _WORD
    if code in {SUB, SUB_X}:
        return a - operand & _WORD
    if code == MUL:
        return a * operand & _WORD
    if code in {LSH, RSH}:
        return a << operand & _WORD if code == LSH else a >> operand
    return a & operand if code == AND else a | operand
