"""Damage to real files, drawn by hypothesis: what reads them gives a right result or a sentence, and changes nothing.

Tests whose names hold `fuzz` take 200 cases each, the same in every run. For a night:

    FUZZ=100000 bash tests/run.sh -k fuzz
"""
import os
import resource
import time
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from core.errors import CheckpointError, DataError, RunError, UsageError

CASES = int(os.environ.get("FUZZ", 200))
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
                    database=None, suppress_health_check=list(HealthCheck))


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
