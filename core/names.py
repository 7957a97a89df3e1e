"""What a class, a video or a run may be called, and how its name stands in what others show."""
import html
import re
from pathlib import Path

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes of a file's name and of a path, on Linux
# ASCII's and Latin 1's control characters, and the two by which Unicode ends lines: a list's row would end there
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # with which a cell of a spreadsheet begins that is computed; or once was


def name_fault(name: str) -> str | None:
    """Why no folder, list or picture could carry `name`, a class's, a video's or a run's -> text, or None.

    Any visible character is fine, white space too; a name is one part of a path.
    """
    if name in ("", ".", ".."):
        return "it is empty, or stands for a folder"
    if found := CONTROL.search(name):
        return f"it holds the control character {found[0]!a}"
    if "/" in name:
        return "it holds a slash"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # Python gives bytes that are not UTF-8 as lone surrogates
        return "it is not UTF-8, or this system's encoding of names is not (PYTHONUTF8=1 sets that)"
    if length > LONGEST_NAME:
        return f"it has {length} bytes, more than the {LONGEST_NAME} of a file's name"
    return None


def path_fault(path: str) -> str | None:
    """Why no file could be at `path`, by the names in it -> text, or None."""
    if not path:
        return "it is empty"
    faults = [fault for part in Path(path).parts if part not in ("/", "//", "..") and (fault := name_fault(part))]
    if not faults and len(path.encode()) > LONGEST_PATH:
        return f"it has more than {LONGEST_PATH} bytes"
    return faults[0] if faults else None


def inside_fault(path: str) -> str | None:
    """Why `path`, of a folder below another, leads to none there -> text, or None."""
    parts = Path(path).parts
    if path and not parts:
        return "it stands for a folder"
    return "it leads to another folder" if Path(path).is_absolute() or ".." in parts else path_fault(path)


def quoted(text: str) -> str:
    """Text from a file as a message shows it: invisible characters escaped, cut after 120 characters."""
    return repr(text if len(text) <= 120 else text[:120] + "...")


def printable(text: object) -> str:
    """Text from a file for the middle of a sentence: where something invisible is in it, as Python writes it."""
    text = str(text)
    return text if text.isprintable() else ascii(text)


def one_line(text: str) -> str:
    """Text with what is invisible in it, line breaks too, as Python escapes it."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown(value: object, most: int = 120) -> str:
    """`printable`, cut after `most` characters."""
    text = printable(value)
    return text if len(text) <= most else text[:most] + "..."


def counted(count: int, noun: str) -> str:
    """"1 file", "2 files"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def cell(text: str) -> str:
    """Text for a cell of a CSV file that spreadsheets open: a name such as =1+1 must not be computed."""
    return f"'{text}" if FORMULA.match(text) else text


def text_of_cell(cell: str) -> str:
    """The text that `cell` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def markdown(text: str) -> str:
    """Text for a cell of a Markdown table: nothing in it is markup or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
