"""What comes from outside is read by its doors alone: every other place that reads is listed here, with its reason."""
import ast
import re

from test_rooms import REPOSITORY, rooms

DOORS = ("core/inputs.py", "core/environment.py", "dataset/reader.py", "dataset/storage.py", "dataset/video.py",
         "models/weights/checkpoint.py", "models/weights/hub.py")
READS = re.compile(r"""json\.loads?|csv\.(reader|DictReader)|(np|numpy)\.(load|loadtxt|genfromtxt|fromfile|memmap)
    |(pd|pandas)\.read_\w+|.*\.(read_text|read_bytes)|os\.(environ|getenv)|cv2\.(imread|imdecode|VideoCapture)
    |.*(hf_hub|snapshot)_download|safetensors\.\w*load\w*
    |Image\.open|torch\.load|pickle\.\w+|zipfile\.ZipFile|os\.open|io\.open|open""", re.VERBOSE)
WRITING = re.compile(r"[rbt+]*[wax][rbt+]*")

# What is read elsewhere: {place: why}. Benchmarks read what they wrote, or data that was verified; they are left out.
OTHERS = {
    "analysis/index.py Index._open: open": "written to; all that is read is where the last line ends",
    "analysis/index.py Index.drop: open": "what was just written",
    "core/check_requirements.py: open": "the project's own requirements.txt, in any Python",
    "core/exits.py record_error: os.environ": "whether a name is there, which torch itself reads",
    "analysis/page.py Page.picture: Image.open": "a picture that the page's own program has drawn",
    "analysis/page.py smaller_encoding: Image.open": "a picture that the page's own program has drawn",
    "analysis/page.py smaller_encoding: read_bytes": "a picture that the page's own program has drawn",
    "core/files.py whole_files: open": "what was just written, to hand it to the disk",
    "core/files.py whole_folder: open": "what was just written, to hand it to the disk",
    "core/exits.py open_streams: open": "/dev/null, in place of a closed stream",
    "core/exits.py run: os.environ": "set for matplotlib, not read",
    "core/lifeline.py is_torchrun: read_bytes": "the system's account of another process in /proc",
    "core/lifeline.py end_with_torchrun: os.environ": "whether a name is there, before anything else is imported",
    "dataset/loader.py cpu_quota: read_text": "the system's account of itself in /sys",
    "engine/precision.py machine: read_text": "the system's account of itself in /proc",
    "engine/precision.py readable: json.loads": "the check itself, of values of which one may be infinite",
    "engine/precision.py timings: json.loads": "what `readable` has let through, or what was just made",
    "core/versions.py machine: read_text": "the system's account of itself in /proc",
    "models/weights/export.py page: read_text": "the project's own page, which exports are given",
    "models/weights/preprocess.py clips_of: cv2.VideoCapture": "in that page, which has no doors of ours",
    "models/weights/preprocess.py decoded: cv2.VideoCapture": "in that page, which has no doors of ours",
    "models/weights/preprocess.py picture: cv2.imread": "in that page, which has no doors of ours",
    "process_data/src/pack.py pack: zipfile.ZipFile": "written, not read",
    "search/upload.py Embedder._clips: os.environ": "handed on to the process that decodes",
    "asset/draw.py save: Image.open": "what was just written",
    "asset/draw_search.py save: Image.open": "what the browser has just drawn",
    "asset/draw_overview.py main: Image.open": "the project's own pictures, kept beside the code",
}


def readings(text):
    """Where a file's text reads something from outside -> {" function: what it calls"}, without function at its top."""
    found = set()

    def visit(node, function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.setdefault":
            return  # sets, for others to read
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}" if function else node.name
        whole = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node) in ("os.environ", "environ"):
            whole = "os.environ"
        if READS.fullmatch(whole) and not whole.startswith("inputs.") and not (whole == "open" and writes(node)):
            method = whole.rpartition(".")[2]
            found.add(f"{' ' * bool(function)}{function}: {method if method.startswith('read_') else whole}".replace(
                ": read_csv", ": pd.read_csv"))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(text), "")
    return found


def writes(call):
    """Whether a call of open() says that it writes."""
    modes = [*call.args[1:2], *(key.value for key in call.keywords if key.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and WRITING.fullmatch(mode.value) for mode in modes)


def test_what_is_read_from_outside_comes_through_a_door():
    found = set()
    for room, paths in rooms().items():
        for path in paths if room != "benchmarks" else ():
            name = path.relative_to(REPOSITORY).as_posix()
            if name not in DOORS:
                found |= {f"{name}{place}" for place in readings(path.read_text(encoding="utf-8"))}
    assert sorted(found - OTHERS.keys()) == [], "read these through core/inputs.py, or say here why not"
    assert sorted(OTHERS.keys() - found) == [], "these are gone from the code: take them out here"


def test_every_way_to_read_is_found():
    assert readings('''
import json
x = os.environ.get("X")
def f(path):
    with open(path) as file, open(path, "w"), open(path, mode="xb"), open(path, "rb+"):
        return json.load(file), csv.reader(file), np.load(path), pd.read_csv(path), Path(path).read_bytes()
class A:
    def g(self, path):
        return cv2.VideoCapture(path), Image.open(path), torch.load(path), pickle.loads(path), path.open_it(), np.save()
''') == {": os.environ", " f: open", " f: json.load", " f: csv.reader", " f: np.load", " f: pd.read_csv",
         " f: read_bytes", " A.g: cv2.VideoCapture", " A.g: Image.open", " A.g: torch.load", " A.g: pickle.loads"}
    assert readings('open(path, "w"), inputs.read_text(path), os.environ.setdefault("A", "b")') == set()
    assert readings("open(path, mode)") == {": open"}
