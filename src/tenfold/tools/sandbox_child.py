"""The process that runs one call of a tool: it confines itself, then imports the tool's code.

Started as `python -I sandbox_child.py DESCRIPTOR` with a request in JSON on its standard input. It imports nothing of
tenfold. To the descriptor it writes `ready`, then one line of JSON, {"value"} or {"value", "kind": "exception"}.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

# Landlock, seccomp: numbers of the kernel's interface.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute (libraries), read files, list folders
_DENIED = {
    "x86_64": {
        "socket": 41, "bind": 49, "connect": 42, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200,
        "setsid": 112, "setpgid": 109, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249,
        "perf_event_open": 298, "userfaultfd": 323, "memfd_create": 319, "io_uring_setup": 425, "io_uring_enter": 426, "pidfd_open": 434,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "prlimit64": 302, "setrlimit": 160, "shmget": 29, "msgget": 68, "semget": 64,
        "mq_open": 240, "open_by_handle_at": 304, "init_module": 175, "finit_module": 313, "kexec_load": 246, "reboot": 169,
        "swapon": 167, "settimeofday": 164, "clock_settime": 227, "sethostname": 170, "personality": 135, "syslog": 103, "quotactl": 179,
    },
    "aarch64": {
        "socket": 198, "bind": 200, "connect": 203, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "setsid": 157, "setpgid": 154,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219, "add_key": 217, "request_key": 218, "perf_event_open": 241,
        "userfaultfd": 282, "memfd_create": 279, "io_uring_setup": 425, "io_uring_enter": 426, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pidfd_getfd": 438, "prlimit64": 261, "setrlimit": 164, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180,
        "open_by_handle_at": 265, "init_module": 105, "finit_module": 273, "kexec_load": 104, "reboot": 142, "swapon": 224,
        "settimeofday": 170, "clock_settime": 112, "sethostname": 161, "personality": 92, "syslog": 116, "quotactl": 60,
    },
}  # fmt: skip
_NETWORK = ("socket", "bind", "connect")
_CLONE = {"x86_64": (56, 435, 0xC000003E), "aarch64": (220, 435, 0xC00000B7)}  # clone, clone3, the audit number
_CLONE_THREAD = 0x10000

_libc = ctypes.CDLL(None, use_errno=True)


def _need(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"sandbox: {what} refused by the kernel")
    return result


def limit(memory: int, cpu: int, most: int) -> None:
    """Limits that only root could raise again, and root's rights are dropped."""
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, max(most, 16 << 20)),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))
    header = struct.pack("Ii", 0x20080522, 0)
    _need(_libc.capset(header, bytes(24)), "dropping capabilities")


def confine_files(readable: list[str], writable: list[str], network: bool) -> None:
    """Landlock: read some places, write one, reach no port."""
    version = _need(_libc.syscall(_CREATE_RULESET, None, 0, 1), "Landlock (needs Linux 5.13)")
    rights = (1 << 13) - 1
    rights |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)
    ports = 3 if version >= 4 and not network else 0
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals to others
    attributes = struct.pack("QQQ", rights, ports, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _need(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0), "Landlock")
    for path, allowed in [*((path, _READ) for path in readable), *((path, rights) for path in writable)]:
        try:
            place = os.open(path, os.O_PATH)
        except OSError:
            continue
        if not os.path.isdir(path):
            allowed &= (1 << 0) | (1 << 1) | (1 << 2) | (1 << 14 if version >= 3 else 0)
        rule = struct.pack("=Qi", allowed, place)
        _need(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"Landlock rule for {path}")
        os.close(place)
    _need(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def confine_calls(network: bool) -> None:
    """seccomp: no new processes, no sockets, nothing that reaches other processes or the machine."""
    machine = platform.machine()
    clone, clone3, audit = _CLONE[machine]
    denied = [number for name, number in _DENIED[machine].items() if not (network and name in _NETWORK)]
    load, jump_equal, jump_set, jump_from, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    code = [(load, 0, 0, 4), (jump_equal, 1, 0, audit), (answer, 0, 0, kill), (load, 0, 0, 0)]
    code += [(jump_from, 0, 1, 0x40000000), (answer, 0, 0, kill)]  # the x32 twins of all calls
    for number in denied:
        code += [(jump_equal, 0, 1, number), (answer, 0, 0, refuse)]
    code += [(jump_equal, 0, 1, clone3), (answer, 0, 0, unknown)]  # the C library then takes clone, whose flags show
    code += [(jump_equal, 0, 4, clone), (load, 0, 0, 16), (jump_set, 1, 0, _CLONE_THREAD), (answer, 0, 0, refuse), (answer, 0, 0, allow)]  # fmt: skip
    code += [(answer, 0, 0, allow)]
    program = b"".join(struct.pack("HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    _need(_libc.prctl(22, 2, filter_, 0, 0), "seccomp")


def load(request: dict[str, Any]) -> Any:
    """The function, from its package or its file."""
    found: Any
    import importlib
    import importlib.util

    if request["module"] and request["module"] != "__main__":
        sys.path.insert(0, request["root"])
        found = importlib.import_module(request["module"])
    else:
        spec = importlib.util.spec_from_file_location("tool_file", request["file"])
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules["tool_file"] = found
        spec.loader.exec_module(found)
    for part in request["name"].split("."):
        found = getattr(found, part)
    return found


def called(request: dict[str, Any]) -> str:
    """The result of the call as JSON."""
    try:
        value = load(request)(**request["arguments"])
        if hasattr(value, "__await__"):
            import asyncio

            async def waited() -> Any:
                return await value

            value = asyncio.run(waited())
        row = {"value": value}
        text = json.dumps(row, default=repr)
    except SystemExit as stop:
        text = json.dumps({"value": f"SystemExit: {stop.code}", "kind": "exception"})
    except BaseException as error:  # noqa: BLE001 - everything that a tool can raise
        text = json.dumps(
            {"value": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", "kind": "exception"}
        )
    if len(text) > request["most"]:
        text = json.dumps(
            {"value": f"its result has {len(text)} characters, more than {request['most']}", "kind": "truncated"}
        )
    return text


def main() -> None:
    """Confine this process, then do what the request on the standard input asks."""
    channel = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.set_inheritable(channel, False)
    readable = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        "/usr",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
    }
    readable |= {os.path.realpath(sys.executable), *request["readable"]}
    _need(_libc.prctl(1, 9, 0, 0, 0), "dying with the parent")
    _need(_libc.prctl(38, 1, 0, 0, 0), "giving up new privileges")
    try:
        confine_files(sorted(readable), [os.getcwd(), "/dev/null"], request["network"])
        limit(request["memory"], request["cpu"], request["most"])
        confine_calls(request["network"])
    except (OSError, KeyError, ValueError) as error:
        os.write(channel, f"{error}\n".encode())
        return
    os.write(channel, b"ready\n")
    text = called(request)
    data = text.encode("utf-8", "replace").replace(b"\n", b" ") + b"\n"
    while data:
        data = data[os.write(channel, data) :]
    os._exit(0)


main()
