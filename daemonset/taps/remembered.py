"""The part of the kernel filter that remembers connections, where eBPF can be had.

A classic program keeps nothing in memory. So of a connection's payloads it can pass only those that begin like a thing
that is known, and of a sample it has to pass every end of every connection, for it does not know whose it is. With a
map, the SYN of a connection that is to be seen is remembered in each direction, at each interface, and

* of a sample, ends and heads pass only of connections that are remembered;
* of every connection that is remembered the first few payloads of each direction pass, whatever they are: first words
  of protocols that nobody listed, and the later segments of a PROXY header that comes in several.

What passes without the map passes with it, too, but for what is of a connection outside of the sample; of a connection
that is not remembered (it began before, or was displaced) the classic program's answer holds, and of a sample nothing.

The key: source and destination of the innermost packet, its ports, and the interface, with a number for the socket,
because interfaces of two network namespaces may have the same index.
"""

from __future__ import annotations

from typing import NamedTuple

from daemonset.taps import bpf, ebpf
from daemonset.taps.bpf import Op

#: Cells of M.
PROTOCOL, ETHERTYPE, FLAGS, TRANSPORT, KEEP, NETWORK, WHY, PAYLOAD, COUNTED = range(9)

#: Why a packet is about to pass, in M[WHY]: by itself; and it begins a connection; if it is of a connection that is
#: remembered; by itself, and it is a payload; if it is one of the first payloads.
ITSELF, BEGINS, KNOWN, HEAD, FIRST = range(5)

#: Payloads of one direction that pass whatever they are: a request line may come behind a PROXY header in two pieces.
FIRST_PAYLOADS = 3

_SYN, _RST, _ACK = 0x02, 0x04, 0x10


class Memory(NamedTuple):
    """How much is remembered: the first so many payloads; `socket` is a number of its own for each socket."""

    first: int = 0
    socket: int = 0


def because(why: int, label: str = "") -> list[Op]:
    """M[WHY] = why; A is lost."""
    return [Op(bpf.LD_IMM, why, label=label), Op(bpf.ST, WHY)]


def control(chosen: list[Op]) -> list[Op]:
    """From A = flags with SYN, FIN or RST among them, X = TCP header: to "ports", and why.

    `chosen`, where there is a sample: from A = ISN to "chosen" or "others".
    """
    if not chosen:
        return [
            Op(bpf.JSET, _SYN, "", "ports", label="control"),
            *because(BEGINS),
            Op(bpf.JA, yes="ports"),
        ]
    return [
        # Of what ends a connection a RST can tell its ISN if it answers a SYN; it is looked up if it does not.
        Op(bpf.ST, FLAGS, label="control"),
        Op(bpf.JSET, _SYN | _RST, "", "others"),
        Op(bpf.JSET, _ACK, "", "opening"),
        Op(bpf.IND_W, 8),
        Op(bpf.SUB, 1),
        Op(bpf.JA, yes="isn"),
        Op(bpf.IND_W, 4, label="opening"),
        chosen[0]._replace(label="isn"),
        *chosen[1:],
        Op(bpf.LD_MEM, FLAGS, label="chosen"),
        Op(bpf.JSET, _SYN, "", "ports"),
        *because(BEGINS),
        Op(bpf.JA, yes="ports"),
        Op(bpf.LD_MEM, FLAGS, label="others"),
        Op(bpf.JSET, _SYN, "reject"),
        *because(KNOWN),
        Op(bpf.JA, yes="ports"),
    ]


def enough(size: int) -> list[Op]:
    """Go on where `size` bytes from X on were sent; fewer are no known beginning, but may be a first payload."""
    return [Op(bpf.LD_LEN), Op(bpf.SUB_X), Op(bpf.JGE, size, "", "other")]


def other(keep: int) -> list[Op]:
    """From X = payload of no known kind: to "ports" if it is one at all, and not the padding of a short frame."""
    return [
        Op(bpf.STX, PAYLOAD, label="other"),
        Op(bpf.LDX_MEM, NETWORK),
        Op(bpf.IND_B, 0),
        Op(bpf.RSH, 4),
        Op(bpf.JEQ, 6, "sized-6"),
        Op(bpf.IND_H, 2),
        Op(bpf.JEQ, 0, "some-payload", "end-of-packet"),  # 0: longer than 64 KiB
        Op(bpf.IND_H, 4, label="sized-6"),
        Op(bpf.JEQ, 0, "some-payload"),
        Op(bpf.ADD, 40),
        Op(bpf.ADD_X, label="end-of-packet"),
        Op(bpf.LDX_MEM, PAYLOAD),
        Op(bpf.SUB_X),
        Op(bpf.JEQ, 0, "reject"),
        Op(bpf.JGE, 1 << 31, "reject"),
        *because(FIRST, "some-payload"),
        Op(bpf.LD_IMM, keep),
        Op(bpf.ST, KEEP),
        Op(bpf.LDX_MEM, TRANSPORT),
        Op(bpf.JA, yes="ports"),
    ]


def passing(memory: Memory) -> list[Op]:
    """From "keep" to A = how many bytes to keep, or to "reject"."""
    return [
        Op(bpf.LD_MEM, WHY, label="keep"),
        Op(bpf.JEQ, ITSELF, "pass"),
        *_key(memory.socket),
        Op(bpf.LD_MEM, WHY),
        Op(bpf.JEQ, BEGINS, "begins"),
        Op(ebpf.COUNT),
        Op(bpf.ST, COUNTED),
        Op(bpf.LD_MEM, WHY),
        Op(bpf.JEQ, HEAD, "pass"),
        Op(bpf.JEQ, FIRST, "one-of-the-first"),
        Op(bpf.LD_MEM, COUNTED),
        Op(bpf.JEQ, 0, "reject", "pass"),
        Op(bpf.LD_MEM, COUNTED, label="one-of-the-first"),
        Op(bpf.JEQ, 0, "reject"),
        Op(bpf.JGT, memory.first, "reject", "pass"),
        Op(ebpf.REMEMBER, label="begins"),
        Op(bpf.LD_MEM, KEEP, label="pass"),
    ]


def _key(number: int) -> list[Op]:
    """The key of the packet; X is lost."""
    zeros = [Op(ebpf.KEY, word) for word in (0, 1, 2, 4, 5, 6)]
    six = [op for word in range(8) for op in (Op(bpf.IND_W, 8 + 4 * word), Op(ebpf.KEY, word))]
    return [
        Op(bpf.LDX_MEM, NETWORK),
        Op(bpf.IND_B, 0),
        Op(bpf.RSH, 4),
        Op(bpf.JEQ, 6, "key-6"),
        Op(bpf.LD_IMM, 0),
        *zeros,
        Op(bpf.IND_W, 12),
        Op(ebpf.KEY, 3),
        Op(bpf.IND_W, 16),
        Op(ebpf.KEY, 7),
        Op(bpf.JA, yes="key-ports"),
        six[0]._replace(label="key-6"),
        *six[1:],
        Op(bpf.LDX_MEM, TRANSPORT, label="key-ports"),
        Op(bpf.IND_W, 0),
        Op(ebpf.KEY, 8),
        Op(bpf.LD_W, bpf.AD_IFINDEX),
        Op(bpf.ADD, number << 20 & 0xFFFF_FFFF),
        Op(ebpf.KEY, 9),
    ]
