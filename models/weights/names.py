"""The names that others give to our backbones' tensors, and where in a checkpoint such names stand."""
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..backbones.base import Backbone

# copies of the encoder that is trained
_KEY_SIDE = re.compile(r"(^|[._])(k|key|momentum|teacher|target|ema|sampler|hist|mmt)[._]")
_DOT = re.compile(r"\.")
COUNTER = ".num_batches_tracked"  # of a batch norm: counts batches, and has no effect at a fixed momentum
_HEAD = re.compile(r"fc|head|queue|classifier|final_bn|mlp|pred|proj|linear|logit")


def name_tables(backbone: Backbone) -> dict[str, dict[str, str]]:
    """{family: {its name of a tensor: ours}} of a models.backbones.Backbone. Two names may mean one tensor."""
    kind: Any = type(backbone)
    return _tables(kind, tuple(backbone.state_dict()))


@functools.lru_cache(maxsize=64)
def _tables(kind: Any, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    tables = {"ours": {name: name for name in names}}
    for name in names:
        for family, theirs in kind.foreign_names(name).items():
            tables.setdefault(family, {}).update(dict.fromkeys(theirs, name))
    return tables


def locate(keys: Iterable[str], tables: Mapping[str, Mapping[str, str]],
           prefix: str | None = None) -> tuple[str, str, list[str]]:
    """Where the names of a checkpoint are those of a backbone -> (family, prefix, other prefixes that do as well).

    tables: the backbone's `name_tables`. The prefix under which most names are found wins, key encoders and the like
    coming last; it may be anything (`module.encoder_q.0.`), and is `prefix` where that is given. Others do as well
    where as many names are found in another way, or nine tenths as many of other tensors. Family "unknown" where no
    name is found.
    """
    found: dict[tuple[str, str], list[str]] = {}  # (family, prefix) -> keys
    longest = max(len(name) for table in tables.values() for name in table)
    for key in keys:
        starts = [dot.end() for dot in _DOT.finditer(key, max(0, len(key) - longest - 1))]
        for start in (0, *starts):
            for family, table in tables.items():
                if key[start:] in table and prefix in (None, key[:start]):
                    found.setdefault((family, key[:start]), []).append(key)
    if not found:
        return "unknown", prefix or "", []
    counts = {one: sum(not key.endswith(COUNTER) for key in keys) for one, keys in found.items()}
    found = {one: keys for one, keys in found.items() if 2 * counts[one] >= max(counts.values())}
    found = {one: keys for one, keys in found.items() if not is_copy(one[1])} or found
    most = max(counts[one] for one in found)
    # C3D's names of the release under `layers.` are ours: the same tensors count once
    different = {frozenset(keys): one for one, keys in reversed(found.items())}
    keys, (family, prefix) = next((keys, one) for keys, one in reversed(different.items()) if counts[one] == most)
    return family, prefix, list(dict.fromkeys(
        one[1] for theirs, one in reversed(different.items())
        if theirs != keys and (counts[one] == most or 10 * counts[one] >= 9 * most and theirs.isdisjoint(keys))))


def is_copy(prefix: str) -> bool:
    """Whether tensors under a prefix are of a copy of the encoder that is trained, such as a momentum encoder."""
    return bool(_KEY_SIDE.search(prefix))


def is_head(name: str, family: str) -> bool:
    """Whether a tensor beside a backbone's is of a head or a queue: by the first part of its name, in most families."""
    last = family == "pytorchvideo" and name.startswith("blocks.5.proj.")
    return last or bool(_HEAD.search(name.partition(".")[0]))
