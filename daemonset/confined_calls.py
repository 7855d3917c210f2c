"""System calls by name, with their numbers on x86_64 and on aarch64, and which of them an agent never needs.

Numbers are those of the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h);
None: the machine does not have the call.
"""

from __future__ import annotations

#: Numbers on x86_64 and on aarch64.
Numbers = dict[str, tuple[int | None, int | None]]

#: Other programs and processes: to start them, to signal them, to look into them.
_PROCESSES: Numbers = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "kill": (62, 129),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
}  # fmt: skip

#: The kernel as a whole: modules, keys, clocks, names, and interfaces that have been abused much.
_KERNEL: Numbers = {
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "lookup_dcookie": (212, 18), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "uselib": (134, None), "nfsservctl": (180, 42), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "vhangup": (153, 58), "personality": (135, 92),
}  # fmt: skip

#: Mounts and namespaces.
_SPACES: Numbers = {
    "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}  # fmt: skip

#: Connections, in either direction.
_TALK: Numbers = {
    "connect": (42, 203), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
}  # fmt: skip

#: Another user.
_IDENTITY: Numbers = {
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152),
    "setgroups": (116, 159),
}  # fmt: skip

#: Files: to make, change, move and remove them.
FILES: Numbers = {
    "creat": (85, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None),
    "mknodat": (259, 33), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "truncate": (76, None), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88),
}  # fmt: skip

#: Those of which the arguments decide.
LOOKED_AT: Numbers = {
    "setns": (308, 268), "clone": (56, 220), "tgkill": (234, 131), "bpf": (321, 280), "socket": (41, 198),
    "ioctl": (16, 29), "open": (2, None), "openat": (257, 56),
}  # fmt: skip

#: Those whose arguments a filter cannot see, and which have another that it can.
ABSENT: Numbers = {
    "clone3": (435, 435), "openat2": (437, 437),
}  # fmt: skip

#: With which a filter is set.
SECCOMP = (317, 277)

REFUSED: Numbers = {**_PROCESSES, **_KERNEL, **_SPACES, **_TALK, **_IDENTITY}
