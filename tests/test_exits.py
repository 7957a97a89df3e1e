"""What is said of errors that several processes, GPUs or memory cause, and how long processes wait for each other."""
import runpy
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from helpers import REPOSITORY

import core.dist
from core.errors import UsageError
from core.exits import ANOTHER_PROCESS, explain
from core.parser import new_parser
from dataset import loader
from dataset.loader import cpu_quota
from engine import setup
from engine.flags import add_data_flags

NCCL = ("NCCL error in: /pytorch/torch/csrc/distributed/c10d/{}, {} (run with NCCL_DEBUG=WARN for details), NCCL "
        "version 2.27.5\n{}\nLast error:\n{}\nException raised from getNCCLComm at /pytorch/x.cpp:1727 (most recent "
        "call first):\nframe #0: c10::Error::Error")
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/{}"

# what torch, gloo and NCCL really say: (message, their words in the sentence, what it advises)
CAUSES = [
    (NCCL.format("NCCLUtils.hpp:77", "unhandled system error", SYSTEM, "Error while creating shared memory segment "
                 "/dev/shm/nccl-WU88OE (size 9637888), error: No space left on device (28)"),
     "/dev/shm/nccl-WU88OE (size 9637888), error: No space left on device (28))", "--shm-size"),
    (NCCL.format("ProcessGroupNCCL.cpp:1727", "invalid usage", "ncclInvalidUsage: This usually reflects invalid usage "
                 "of NCCL library.", "Duplicate GPU detected : rank 3 and rank 0 both on CUDA device f000"),
     "(Duplicate GPU detected : rank 3 and rank 0 both on CUDA device f000)", "CUDA_VISIBLE_DEVICES"),
    (NCCL.format("NCCLUtils.hpp:94", "invalid usage", "ncclInvalidUsage: This usually reflects invalid usage of NCCL "
                 "library.", "Bootstrap : no socket interface found"), "no socket interface", "NCCL_SOCKET_IFNAME"),
    ("[enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find "
     "address for: bond1", "Unable to find address for: bond1", "GLOO_SOCKET_IFNAME"),
    ("Gloo connectFullMesh failed with " + GLOO.format("pair.cc:144] no error"), "pair.cc:144] no error",
     "GLOO_SOCKET_IFNAME"),
    ("Gloo connectFullMesh failed with " + GLOO.format("pair.cc:152] timed out connecting: SO_ERROR: Connection "
     "refused, remote=[127.0.1.1]:40123 (rank=1, size=2, local=[127.0.1.1])"), "remote=[127.0.1.1]:40123",
     "127.0.1.1 in its /etc/hosts"),
    (GLOO.format("pair.cc:799] connect [172.31.71.170]:13195: Connection refused"), "[172.31.71.170]:13195",
     "NCCL_SOCKET_IFNAME"),
    (GLOO.format("unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"),
     "Timed out waiting 1800000ms", "did not come in time"),
    (dist.DistNetworkError("The server socket has failed to listen on any local network address. port: 29500, useIpv6: "
                           "false, code: -98, name: EADDRINUSE, message: address already in use"),
     "port: 29500", "MASTER_PORT"),
    (dist.DistNetworkError("The client socket has timed out after 600000ms while trying to connect to (node0, 29500)."),
     "(node0, 29500)", "MASTER_ADDR"),
    (dist.DistStoreError("Timed out after 901 seconds waiting for clients. 1/3 clients joined."), "1/3 clients",
     "every machine"),
    (dist.DistStoreError("wait timeout after 300000ms, keys: /default_pg/0//cuda//0"), "300000ms", "hangs"),
    ("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
     "RuntimeError: unable to allocate shared memory(shm) for file </torch_123_4>: No space left on device (28)",
     "unable to allocate shared memory(shm) for file </torch_123_4>", "--shm-size"),
    ("DataLoader worker (pid 46794) is killed by signal: Bus error. It is possible that dataloader's workers are out "
     "of shared memory. Please try to raise your shared memory limit.", "Bus error", "--workers"),
    # nothing that is known: in their own words
    (NCCL.format("NCCLUtils.hpp:77", "unhandled cuda error", "ncclUnhandledCudaError: Call to CUDA function failed.",
                 "Cuda failure 719 'unspecified launch failure'"), "Cuda failure 719 'unspecified launch failure'",
     "NCCL_DEBUG=WARN"),
    ("NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:77, unhandled system error, NCCL version "
     f"2.20.5\n{SYSTEM}\nLast error:\n", "unhandled system error, NCCL version 2.20.5", "NCCL_DEBUG=WARN"),
    ("[enforce fail at /pytorch/third_party/gloo/gloo/allreduce.cc:31] opts.elements > 0", "opts.elements > 0",
     "cannot work together"),
]

CONSEQUENCES = [
    GLOO.format("pair.cc:561] Connection closed by peer [127.0.0.1]:48359. This is typically caused by a remote worker "
                "crashing. Check the logs of the remote worker before reporting an error. GLHF!"),
    GLOO.format("pair.cc:547] Read error [10.0.0.2]:4711: Connection reset by peer"),
    dist.DistNetworkError("Connection reset by peer"),
    NCCL.format("NCCLUtils.hpp:268", "remote process exited or there was a network error", "ncclRemoteError: A call "
                "failed possibly due to a network error or a remote process exiting prematurely.",
                "socketProgressOpt: Call to recv from 172.16.0.2<33759> failed : Connection reset by peer"),
]


def error_of(what):
    return what if isinstance(what, Exception) else RuntimeError(what)


@pytest.mark.parametrize("what,words,advice", CAUSES)
def test_the_cause_is_said_with_what_to_do(what, words, advice):
    sentence = explain(error_of(what))
    assert words in sentence and advice in sentence and ANOTHER_PROCESS not in sentence
    assert "\n" not in sentence and "frame #" not in sentence


@pytest.mark.parametrize("what", CONSEQUENCES)
def test_consequences_are_said_to_be_some(what):
    sentence = explain(error_of(what))
    assert sentence.startswith(ANOTHER_PROCESS) and "\n" not in sentence and "typically" not in sentence
    lines = str(what).splitlines()
    said = lines[lines.index("Last error:") + 1] if "Last error:" in lines else lines[0].partition(". This")[0]
    assert said in sentence


def test_errors_of_the_program_are_not_explained():
    in_worker = ("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                 "  File x\nRuntimeError: shape '[3]' is invalid for input of size 4")
    assert explain(RuntimeError(in_worker)) is None
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.65 GiB "
                           "of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB "
                           "memory in use. Of the allocated memory 22.90 GiB is allocated by PyTorch"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 20 bytes. Error code 12 (Cannot allocate memory)")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("script,more", [("train.py", True), ("finetune.py", True), ("test.py", False),
                                         ("retrieval.py", False)])
def test_out_of_memory_names_the_flags_that_the_script_has(script, more, error, monkeypatch, capsys):
    def start(*_):
        raise error

    monkeypatch.setattr(setup, "start", start)  # stands for any part of the run
    monkeypatch.setattr(sys, "argv", [script, *(["--pretrain", "random"] if script == "finetune.py" else [])])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1 and "allocate 20" in said and "non-PyTorch" not in said
    assert "--batch_size" in said and "--precision bf16" in said
    assert ("--accumulate" in said, "--checkpointing" in said) == (more, more)


# --- how long processes wait for each other -------------------------------------------------------------------


@pytest.fixture
def joined(monkeypatch):
    """What start() passes to torch, as the second process of this machine with GPUs 2 and 3 visible."""
    calls = {}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.update(options, backend=backend))
    monkeypatch.setattr(dist, "new_group", lambda **options: calls.update(group=options) or dist.ProcessGroup(0, 1))
    for name, value in (("is_available", True), ("device_count", 2), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    for name, value in (("RANK", 3), ("LOCAL_RANK", 1), ("WORLD_SIZE", 4), ("CUDA_VISIBLE_DEVICES", "2,3"),
                        ("MASTER_ADDR", "first"), ("MASTER_PORT", 29500)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(core.dist, "_patience", None)
    monkeypatch.setattr(core.dist, "_planned", 1)
    return calls


@pytest.mark.parametrize("seconds", [2.0, 600.0, 7200.0, 0.0, float("inf"), float("nan"), -1.0, 1e30])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_processes_wait_longer_for_each_other_than_for_a_batch(joined, device, seconds):
    """0 is for ever, which is a week here; other numbers that are no time are refused after the start."""
    setup.start(device, seconds)
    core.dist.cpu_group()
    waits = timedelta(seconds=seconds) if 0 < seconds < 1e6 else timedelta(days=7)
    assert joined["timeout"] == joined["group"]["timeout"] == waits + timedelta(minutes=30)
    assert joined["group"]["backend"] == "gloo"


def test_nccl_is_told_which_of_the_visible_gpus_is_this_process(joined):
    device = setup.start("cuda")
    assert (joined["backend"], joined["device_id"], device) == ("nccl", torch.device("cuda", 1), device)
    setup.start("cpu")
    assert (joined["backend"], joined["device_id"]) == ("gloo", None)


def test_a_dry_run_for_many_is_one_process(joined, monkeypatch):
    with pytest.raises(UsageError, match="--dry_run 8 is one process that checks for 8"):
        setup.start("cpu", 600, 8)
    assert not joined
    monkeypatch.delenv("WORLD_SIZE")
    setup.start("cpu", 600, 8)
    assert core.dist.world_size() == 8 and not joined
    setup.start("cpu", 600)
    assert core.dist.world_size() == 1


@pytest.mark.parametrize("variable,value,says", [
    ("WORLD_SIZE", "abc", "'abc' in the environment is not a whole number from 1 to"), ("WORLD_SIZE", "0", "from 1 to"),
    ("LOCAL_RANK", "x", "from 0 to"), ("LOCAL_RANK", "-1", "from 0 to"), ("LOCAL_WORLD_SIZE", "0", "from 1 to"),
    ("LOCAL_WORLD_SIZE", "abc", "machine's processes"), ("RANK", None, "is not set"), ("RANK", "4", "from 0 to 3"),
    ("RANK", "", "is not set"), ("MASTER_PORT", None, "is not set"), ("MASTER_PORT", "0", "from 1 to 65535"),
    ("MASTER_PORT", "1e4", "'1e4'"), ("MASTER_ADDR", None, "is not set"), ("WORLD_SIZE", "\u0663", "'\\u0663'")])
def test_what_torchrun_sets_is_checked(joined, program, monkeypatch, variable, value, says):
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    code, out, err = program("train.py", "--device", "cpu")
    assert (code, out) == (2, "") and not joined
    assert err.startswith(f"error: {variable}") and says in err and err.count("\n") == 1


# --- loader processes -----------------------------------------------------------------------------------------


def group_files(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize("own,files,cores", [
    ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),  # a container with a view of its own
    ("0::/\n", {"cpu.max": "max 100000"}, float("inf")),
    ("0::/\n", {}, float("inf")),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "c/cpu.max": "1 100000"}, 4),
    ("0::/../../other\n", {"cpu.max": "200000 100000"}, 2),
    ("2:cpu,cpuacct:/docker/1\n1:memory:/x\n0::/\n",
     {"cpu/cpu.cfs_quota_us": "350000", "cpu/cpu.cfs_period_us": "100000"}, 3.5),
    ("3:cpuset:/\n2:cpu:/job\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
                                  "cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "50000"}, 4)])
def test_limit_of_control_groups(tmp_path, own, files, cores):
    (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path / "own", group_files(tmp_path / "fs", files)) == cores


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path) == float("inf")


@pytest.mark.parametrize("cores,quota,processes,workers", [
    (64, float("inf"), 8, 8), (64, float("inf"), 16, 4), (64, 12.0, 8, 1), (6, float("inf"), 4, 1), (1, 0.5, 1, 1),
    (2, float("inf"), None, 2), (96, 2.9, 1, 2)])
def test_workers_are_this_processs_share_of_the_cores(monkeypatch, cores, quota, processes, workers):
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(loader, "cpu_quota", lambda: quota)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    parser = new_parser("x.py", "X")
    add_data_flags(parser, batch_size=1, batch_help="")
    assert parser.parse_args([]).workers == workers
