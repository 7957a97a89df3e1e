"""What the page sends, read from its request; nonsense is refused in one sentence."""
import secrets

import numpy as np
from flask import abort, request

from .library import Library

MOST_EXAMPLES = 200  # of a query
MOST_UPLOADS = 20  # that are kept
SHOWN = {"after": "'From second'", "before": "'to second'"}  # what the page calls them


def number(name: str, default: float, least: float = 0, most: float = 1e12) -> float:
    """One of the address."""
    try:
        value = float(request.args.get(name, default) or default)
    except ValueError:
        abort(400, f"{SHOWN.get(name, name)} is no number")
    if not least <= value <= most:
        abort(400, f"{SHOWN.get(name, name)} is not between {least:g} and {most:g}")
    return value


class Asked:
    """Windows of a library, and vectors of dropped files, by what the page calls them.

    Attribute: `uploads`: {"u...": (name of the file, vectors (P, D))}.
    """

    def __init__(self, library: Library) -> None:
        self.library, self.uploads = library, dict[str, tuple[str, np.ndarray]]()

    def keep(self, name: str, vectors: np.ndarray) -> str:
        """Of a dropped file -> what it is called from now on"""
        key = f"u{secrets.token_hex(8)}"
        self.uploads[key] = name, vectors
        for old in list(self.uploads)[:-MOST_UPLOADS]:
            self.uploads.pop(old, None)
        return key

    def places(self, text: str, most: int = MOST_EXAMPLES) -> list[int]:
        """Of windows, such as 3,17."""
        words = [word for word in text.split(",") if word]
        if len(words) > most:
            abort(400, f"more than {most} windows")
        if not all(word.isascii() and word.isdigit() and len(word) < 19 and int(word) < len(self.library)
                   for word in words):
            abort(400, "that is no window of the index")
        return [int(word) for word in words]

    def examples(self, text: str) -> tuple[list[int], dict[str, str], np.ndarray]:
        """Windows and uploads, such as 3,17,u1 -> (places, {upload: name of its file}, vectors (P, D) of all)"""
        words = [word for word in text.split(",") if word]
        own = self.places(",".join(word for word in words if not word.startswith("u")))
        dropped = [(word, self.uploads.get(word)) for word in words if word.startswith("u")]
        parts, names = [self.library.of(own)] if own else [], {}
        for word, kept in dropped:
            if kept is None:
                abort(400, "that file is not here any more: drop it again")
            names[word] = kept[0]
            parts.append(kept[1])
        return own, names, np.concatenate(parts) if parts else np.empty((0, self.library.vectors.shape[1]), np.float32)

    def allowed(self) -> np.ndarray | None:
        """(N,) bool: which windows the filters leave; None: all."""
        after, before = number("after", 0), number("before", np.inf, most=np.inf)
        if before <= after:
            abort(400, "there is nothing between these seconds: the second number must be the larger one")
        return self.library.allowed(request.args.get("folder", ""), after, before)
