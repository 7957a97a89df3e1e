"""Small data sets and commands for the tests."""
import functools
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

from core.exits import run
from dataset.local_dataset import DATASETS, UCF101_GROUP, LocalDataset

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
PATIENCE = 300  # seconds after which something hangs; a slow or busy machine is no failure
# flags that make any stage take seconds
FAST = ["--workers", "0", "--device", "cpu"]
SMALL = ["--img_dim", "24", "--seq_len", "4", "--ds", "2", *FAST]
NARROW = ["--net", "r3d", "--width", "0.0625"]
OWN = ("r3d", "r21d", "s3d", "s3dg", "c3d")  # networks that are written here after the release


class Handler(BaseHTTPRequestHandler):
    """Answers without a log."""

    def log_message(self, *_):
        pass


@contextmanager
def answering(handler):
    """A server of HTTP on this machine, by a Handler -> its address"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def make_dataset(root, name="ucf101", classes=("Run", "air drumming"), groups=4, clips=2, frames=9, test_groups=1):
    """Frames and lists of a small data set under `root`, as the tools in process_data would write them."""
    rng = np.random.default_rng(0)
    lists = root / "lists" / name
    lists.mkdir(parents=True)
    rows = {"train": [], "test": []}
    for c, class_name in enumerate(classes):
        for g in range(1, groups + 1):
            for i in range(1, clips + 1):
                video = f"{class_name}/v_{class_name}_g{g:02d}_c{i:02d}"
                folder = root / name / "frames" / video
                folder.mkdir(parents=True)
                picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                picture[..., c] //= 4
                for f in range(1, frames + 1):
                    shifted = cv2.resize(np.roll(picture, f, axis=c % 2), (40, 30), interpolation=cv2.INTER_LINEAR)
                    cv2.imwrite(str(folder / f"image_{f:05d}.jpg"), shifted)
                rows["test" if g <= test_groups else "train"].append(f"{video},{frames}\n")
    for part, lines in rows.items():
        (lists / f"{part}_split01.csv").write_text("".join(lines))
    (lists / "ClassInd.txt").write_text("".join(f"{i} {c}\n" for i, c in enumerate(sorted(classes), 1)))
    return root


def results_of(network, mean=0.9, floor=0.6, at_chance=True, dataset="demo", single=0.5):
    """What analysis.temporal writes of one network and one floor."""
    from analysis.temporal_output import HOWS, KINDS

    def one(mean, single):
        share, frame = ({"mean": x, "low": x - 0.05, "high": x + 0.05, "error": 0.02} for x in (mean, single))
        kinds = {kind: dict.fromkeys(HOWS, share if kind in ("clips", "control") else frame)
                 for kind in KINDS}
        return {"tasks": {"arrow": {**kinds, "shots": {}, "at_chance": {"linear": at_chance, "neighbours": True},
                                    "above_floors": dict.fromkeys(HOWS, mean > floor)}},
                "classes": {"true": share}}

    return {"networks": [network], "class_chance": 0.5, "recordings": 20,
            "measures": {network: one(mean, single), "cues": one(floor, 0.5)},
            "tasks": {"arrow": {"title": "arrow of time", "chance": 0.5, "stride": 2, "train": 20, "test": 20}},
            "flags": {"dataset": dataset, "split": 1, "seq_len": 16, "ds": 2, "img_dim": 56, "resize": [64, 86],
                      "draws": 3, "videos": 1000, "storage": "frames", "seed": 0}}


def frames_of(reader, video, indices):
    """What FrameReader.read gives, put together -> (*indices.shape, H, W, 3)."""
    pictures, which = reader.read(video, indices)
    return np.stack(list(pictures))[which]


def pictures_of(clips):
    """Clips (V, T, H, W, 3) as FrameReader.read would give them."""
    pictures = list(clips.reshape(-1, *clips.shape[2:]))
    return pictures, np.arange(len(pictures)).reshape(clips.shape[:2])


def copy_checkout(folder):
    """Copy the repository's files, tests aside, to `folder`, where launchers may write.

    Without git, which not everybody's copy of the repository has.
    """
    ignored = [line for line in (REPOSITORY / ".gitignore").read_text().split("\n") if line.strip("# ") == line.strip()]
    top = [name.strip("/") for name in ignored if name.startswith("/")]
    anywhere = shutil.ignore_patterns(*(name.strip("/") for name in ignored if not name.startswith("/")), ".git")

    def left_out(where, names):
        inside = Path(where).relative_to(REPOSITORY)
        return anywhere(where, names) | {name for name in names if (inside / name).as_posix() in [*top, "tests"]}

    return Path(shutil.copytree(REPOSITORY, folder, symlinks=True, ignore=left_out, dirs_exist_ok=True))


def environment(root, **more):
    """Environment in which all data sets are under `root`, with one thread a process.

    Processes talk over the loopback device: the machine's name may lead nowhere.
    """
    return {**os.environ, "DUALVAR_DATA": str(root), "DUALVAR_LISTS": str(root / "lists"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo", **more}


class Process:
    """A script run by the zygote; what it prints is in files."""

    def __init__(self, argv, cwd, env):
        self.files = [tempfile.NamedTemporaryFile("r", errors="replace") for _ in range(2)]
        self.returncode = None
        self.pid = ask_zygote({"argv": argv, "cwd": str(cwd), "env": env, "out": self.files[0].name,
                               "err": self.files[1].name})

    def poll(self):
        if self.returncode is None:
            self.returncode = ask_zygote({"poll": self.pid})
        return self.returncode

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{self.pid} runs for over {timeout} s: {self.output('out')}{self.output('err')}")
            time.sleep(0.01)
        return self.returncode

    def output(self, which):
        return Path(self.files[("out", "err").index(which)].name).read_text(errors="replace")


@functools.cache
def zygote():
    return subprocess.Popen([sys.executable, str(REPOSITORY / "tests/zygote.py")], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def ask_zygote(request):
    process = zygote()
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def start(*args, cwd, env, processes=1, env_of=None):
    """Start `python args...` in folder `cwd`, in several gloo processes as torchrun would -> [Process].

    env_of: {rank: environment} of processes that see another machine.
    """
    argv = [str(REPOSITORY / args[0]), *map(str, args[1:])]
    if processes == 1:
        return [Process(argv, cwd, env)]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    return [Process(argv, cwd, {**(env_of or {}).get(r, env), **group, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(processes)]


def wait_for(condition, group, timeout=PATIENCE):
    """Wait until `condition()` holds -> False where a process of the group has ended before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if any(process.poll() is not None for process in group):
            return False
        assert time.monotonic() < deadline, f"{group[0].pid} has not come so far after {timeout} s"
        time.sleep(0.002)
    return True


def children(pid, deep=False):
    """Ids of a process's children, or of all its descendants, that are not zombies."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(entry))
    found = list(parents.get(pid, []))
    for child in found if deep else []:  # grows while it is walked
        found += parents.get(child, [])
    return found


def assert_gone(pids, timeout=PATIENCE):
    """None of these processes is left (a zombie is gone)."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < deadline, pid
            time.sleep(0.05)


def planted(folder, program, code):
    """Write a program that runs `code`, which changes the project, and then one of its modules -> its path."""
    path = folder / f"planted_{program.replace('.', '_')}.py"
    path.write_text(f"{code}\nimport runpy\nrunpy.run_module({program!r}, run_name='__main__', alter_sys=True)\n")
    return str(path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*args, cwd, env, processes=1, timeout=PATIENCE):
    """Run `python args...` in folder `cwd` -> CompletedProcess, of the first process that failed or the first."""
    group = start(*args, cwd=cwd, env=env, processes=processes)
    for process in group:
        process.wait(timeout)
    chosen = next((p for p in group if p.returncode), group[0])
    return subprocess.CompletedProcess(args, chosen.returncode, chosen.output("out"), chosen.output("err"))


def torchrun(*args, processes, cwd, env, options=("--standalone",)):
    """Start `torchrun args...` -> Popen, standard error in its output."""
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc_per_node", str(processes)]
    return subprocess.Popen([*launcher, str(REPOSITORY / args[0]), *map(str, args[1:])], cwd=cwd, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


class InProcess:
    """Runs entry scripts and tools in this process, `ucf101` being the data set under `root`: no import to wait for."""

    def __init__(self, root, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setitem(DATASETS, "ucf101", LocalDataset(root / "ucf101/frames", root / "lists/ucf101",
                                                             UCF101_GROUP, 3))

    def __call__(self, script, *flags):
        """-> (exit code, standard output, standard error)"""
        name = script.removesuffix(".py").replace("/", ".")
        module = importlib.import_module(f"{name}.__main__" if name == "models.weights" else name)
        code = exit_code(module, flags, self.monkeypatch)
        out, err = self.capsys.readouterr()
        return code, out, err


def exit_code(module, flags, monkeypatch, **options):
    """What the system would be told, had a script been started with these flags; it runs in this process."""
    monkeypatch.setattr(sys, "argv", [os.path.relpath(module.__file__, REPOSITORY), *map(str, flags)])
    try:
        run(module.main, **options)
    except SystemExit as end:
        return end.code or 0
    return 0


def succeed(*args, **options):
    done = command(*args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
