"""Damage to real files, drawn by hypothesis: what reads them gives a right result or a sentence, and changes nothing.

Tests whose names hold `fuzz` take 100 cases each, the same in every run. For a night:

    FUZZ=100000 bash tests/run.sh --all -k fuzz
"""
import os
import resource
import time
from contextlib import contextmanager

import torch
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st

from core.errors import CheckpointError, DataError, RunError, UsageError

CASES = int(os.environ.get("FUZZ", 100))
SENTENCES = (UsageError, DataError, CheckpointError, RunError)
LONGEST = 2000  # characters of a sentence: no file's content is echoed whole
SECONDS, MEMORY = 20, 2**30  # that a case may take, also on a busy machine
ENCODINGS = ("utf-16", "latin1", "cp1252", "utf-8-sig", "utf-7")
OTHERS = (b"", b"\x00" * 64, b"\xff\xfe", b"PK\x03\x04" + bytes(40), b"\x93NUMPY\x01\x00\xff\xff{", b"\x80\x04.",
          b"[" * 3000, b'{"a":' * 3000, b"null", b"[]", b"{}", b"1e999", b"-1", b'"text"', b"9" * 5000, b"NaN",
          b"a,b\n" * 50, b'"', b"x" * 140000, b"=1+1\n", b"\r" * 9, "²\n".encode(), b"\xef\xbb\xbf",
          b"ffconcat version 1.0\n")
PIECES = (b"", b"\x00", b"\xff", b"\n", b"\r", b"\t", b",", b'"', b"/", b"..", b"-", b"1", b"99999999999", b"nan",
          b"null", b"[", b"{", b"}", b"1e400", "²".encode(), "\u2028".encode(), b"$", b"<b>", b" ")


def cases(divisor=1):
    """Settings of a test of CASES / divisor cases; divisor: for those that take long."""
    return settings(derandomize="FUZZ" not in os.environ, max_examples=max(1, CASES // divisor), deadline=None,
                    database=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw, whole):
    """Bytes of a real file -> bytes with one to three faults: flipped, cut, spliced, doubled, in another encoding, or
    of another kind altogether.
    """
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("flip", "cut", "splice", "splice", "double", "encoding", "other")))
        first, last = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        if kind == "flip" and first < len(data):
            data = data[:first] + bytes([data[first] ^ 1 << draw(st.integers(0, 7))]) + data[first + 1:]
        elif kind == "cut":
            data = data[:first] + data[last:]
        elif kind == "splice":
            data = data[:first] + draw(st.sampled_from(PIECES)) + data[min(last, first + draw(st.integers(0, 8))):]
        elif kind == "double":
            data = data[:last] + data[first:]
        elif kind == "encoding":
            data = data.decode("utf-8", "replace").encode(draw(st.sampled_from(ENCODINGS)), "replace")
        elif kind == "other":
            data = draw(st.sampled_from(OTHERS))
    return data


def values(own):
    """What stands in a damaged checkpoint instead of `own`."""
    odd = [None, True, 0, -1, 2**62, 10**30, 1.5, -0.0, float("inf"), float("nan"), "", "x", "\n\x1b[2J", "9" * 10**6,
           [], [[[]]], [1, "a"], {}, {"a": {"b": None}}, {1: 2}, {(1, 2): 3}, (1, 2), {1, 2}, nested(20), nested(200),
           torch.float32, torch.zeros(()), torch.zeros(3), torch.zeros(3, dtype=torch.long),
           torch.ones(2, 2).to_sparse(), torch.zeros(1).expand(10**12), torch.zeros(0),
           torch.tensor(float("nan")), torch.tensor(2**62)]
    if isinstance(own, torch.Tensor) and own.layout == torch.strided and own.numel() < 10**6:
        odd += [own.double(), own.half(), own.long(), own[None], own * float("nan"), own + float("inf"), own.tolist(),
                own.to(torch.complex64), own.bool(), own.contiguous().view(-1)[:-1], -own - 1]
    elif isinstance(own, (dict, list)) and own:
        odd += [[own] * 3, {"x": own}, [None] * len(own), dict(enumerate(own)), list(own)]
    return odd


def nested(depth):
    """A list of two in which is the same list of two, and so on: 2**depth values for who walks through them."""
    value = ["x", "x"]
    for _ in range(depth):
        value = [value, value]
    return value


def broken(draw, tree):
    """A checkpoint's content with one or two entries anywhere in it replaced, missing or one too many.

    draw: of st.data(). Integers alone are drawn: hypothesis would show what else there is in full.
    """
    for _ in range(draw(st.integers(1, 2))):
        tree = _broken_once(draw, tree)
    return tree


def _broken_once(draw, tree, path=()):
    def one_of(options):
        return options[draw(st.integers(0, len(options) - 1))]

    if isinstance(tree, (dict, list)) and tree and not (path and draw(st.integers(0, 4)) == 0):
        key = one_of(list(tree) if isinstance(tree, dict) else range(len(tree)))
        how, copy = draw(st.integers(0, 12)), type(tree)(tree)
        if how == 0:
            note(f"{(*path, key)} is missing")
            del copy[key]
        elif how == 1 and isinstance(tree, dict):
            more, value = one_of(("more", "", "\x1b", "x" * 10**5, 7, None)), one_of(values(1))
            note(f"{path} has {repr(more)[:80]}: {type(value)}")
            copy[more] = value
        else:
            copy[key] = _broken_once(draw, tree[key], (*path, key))
        return copy
    value = one_of(values(tree))
    note(f"{path} is {type(value)} {repr(value)[:80] if isinstance(value, (str, int, float)) else ''}")
    return value


def in_sentence(call, *arguments, **options):
    """What a call returns, or the DataError and the like that it raises, checked to be one sentence."""
    with bounded():
        try:
            return call(*arguments, **options)
        except SENTENCES as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < LONGEST, text[:LONGEST]
            return error


@contextmanager
def bounded():
    """The block takes no more than SECONDS and MEMORY."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - begun < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
