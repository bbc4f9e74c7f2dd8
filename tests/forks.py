"""A `python` that starts at once: it asks a process that has imported torch and diffusers to fork.

`PYTHON` is called as `python -m MODULE …`, `-c CODE …`, `- …` or `SCRIPT …` is, with the same streams, folder and environment, and ends as that
does. What it runs is a process of its own; only its imports are those of the process that it was forked from.
"""

import array
import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import types
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "torch", "diffusers.pipelines.pipeline_utils", "diffusers.models.unets.unet_2d_condition", "diffusers.pipelines.ddpm.pipeline_ddpm",
    "huggingface_hub.hf_api", "sqlalchemy.dialects.sqlite", "rich.progress", "numpy",
)  # fmt: skip
"""What takes long to import, besides all of eigenbank. The process that has it computes nothing and talks to nobody."""

CLIENT = """\
#!{python} -IS
import array, os, socket, sys
args = {args} + sys.argv[1:]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) != server.fileno()]
    fds = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{{fd}}")]
    from json import dumps
    request = dumps([{program!r}, args, dict(os.environ), os.getcwd(), fds]).encode()
    server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    server.sendall(request)
    sys.exit(int(server.recv(8) or 1))
"""
COMMAND = "import sys; from eigenbank.cli.start import main; sys.argv[0] = 'eigenbank'; sys.exit(main())"
_SERVERS: dict[str, "subprocess.Popen[bytes]"] = {}
"""Kept as long as this process lives: a server ends when its input is closed."""


@cache
def programs() -> Path:
    """A folder with `python` and `eigenbank`, to be put before others on the PATH; where there is no Linux, the real ones."""
    if sys.platform != "linux":
        return Path(sys.executable).parent
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    address = str(folder / "socket")
    for name, args in {"python": [], "eigenbank": ["-c", COMMAND]}.items():
        program = folder / name
        program.write_text(
            CLIENT.format(python=sys.executable, args=args, address=address, program=str(folder / "python"))
        )
        program.chmod(0o755)
    server = _SERVERS[address] = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=_environment()
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return folder


def python() -> str:
    """Stands for `sys.executable`."""
    return str(programs() / Path(sys.executable if sys.platform != "linux" else "python").name)


def _environment() -> dict[str, str]:
    """What libraries read when they are imported, as every `Hub.environment` has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EIGENBANK_"))}
    return {**kept, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def serve(address: str) -> None:
    """Fork for whoever asks, until the input is closed."""
    import eigenbank

    own = [found.name for found in pkgutil.walk_packages(eigenbank.__path__, "eigenbank.")]
    for name in (*IMPORTED, *own):
        if not name.startswith(("eigenbank.__main__", "eigenbank.play")):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        listening.bind(address)
        listening.listen(100)
        selector.register(listening, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        os.write(1, b"ready\n")
        while True:
            if any(key.fileobj == 0 for key, _ in selector.select()):
                shutil.rmtree(Path(address).parent, ignore_errors=True)
                return
            asking, _ = listening.accept()
            if os.fork() == 0:
                selector.close()
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    _answer(asking)
                finally:
                    os._exit(1)
            asking.close()


def _answer(asking: socket.socket) -> None:
    """Run what is asked for in a child, and say how it ended. It is killed when nobody waits for it any more."""
    size, ancillary, _, _ = asking.recvmsg(8, socket.CMSG_SPACE(64 * 4))
    got = array.array("i")
    for _, _, data in ancillary:
        got.frombytes(data)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += asking.recv(1 << 20)
    program, args, environment, folder, fds = json.loads(request)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            asking.close()
            _take(dict(zip(fds, got, strict=True)))
            code = _run(program, args, environment, folder)
        os._exit(code)
    for fd in (0, 1, 2, *got):
        os.close(fd)
    waiting = os.pidfd_open(pid)
    with selectors.DefaultSelector() as selector:
        selector.register(waiting, selectors.EVENT_READ)
        selector.register(asking, selectors.EVENT_READ)
        if not any(key.fileobj == waiting for key, _ in selector.select()):
            os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        asking.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _take(fds: dict[int, int]) -> None:
    """Give what was received the numbers it has where it comes from."""
    high = {number: os.dup2(fd, 500 + number) for number, fd in fds.items()}
    os.closerange(0, 500)
    for number, fd in high.items():
        os.dup2(fd, number, inheritable=number <= 2)
        os.close(fd)


def _run(program: str, args: list[str], environment: dict[str, str], folder: str) -> int:
    for number, name, errors in ((0, "stdin", "strict"), (1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        stream = open(number, "w" if number else "r", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=number == 2 or stream.isatty())
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    _read_environment_again()
    multiprocessing.set_executable(program)
    main: Any = types.ModuleType("__main__")
    while args[0] in ("-B", "-s", "-E"):  # multiprocessing's
        args = args[1:]
    try:
        sys.argv = args[1:] if args[0] == "-m" else args
        if args[0] == "-m":
            runpy.run_module(args[1], run_name="__main__", alter_sys=True)
        elif args[0] in ("-c", "-"):
            sys.argv = [args[0], *args[2 if args[0] == "-c" else 1 :]]
            sys.modules["__main__"] = main
            exec(compile(args[1] if args[0] == "-c" else sys.stdin.read(), "<string>", "exec"), main.__dict__)
        else:
            sys.path[0] = str(Path(args[0]).parent)
            runpy.run_path(args[0], run_name="__main__")
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code or 0


def _read_environment_again() -> None:
    """The Hub's client read the environment when it was imported: it does so again, and what was copied from it follows."""
    from huggingface_hub import constants, hf_api

    importlib.reload(constants)
    for name, module in list(sys.modules.items()):
        if name.startswith(("huggingface_hub.", "diffusers.utils.")) and module is not constants:
            for key in vars(module).keys() & vars(constants).keys():
                if key.isupper():
                    setattr(module, key, getattr(constants, key))
    hf_api.api.endpoint = constants.ENDPOINT


if __name__ == "__main__":
    serve(sys.argv[1])
