"""What the pages name exists: commands, flags, files, names in the code, links. The examples of the walks work."""
import argparse
import importlib
import inspect
import os
import re
import shlex
import sys
from collections import namedtuple
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import REPOSITORY

from core.errors import DataError, UsageError
from engine.gradcache import GradCache
from engine.setup import check_shapes
from models import build_backbone, build_classifier, build_pretrainer
from models.dualvar import TERMS, total_loss
from process_data.src.official_lists import READERS

PAGES = [path.relative_to(REPOSITORY).as_posix() for path in (
    REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").glob("*.md")), *sorted((REPOSITORY / "asset").rglob("README.md")),
    REPOSITORY / "tests/golden/README.md") if path.exists()]
PRESENT = [page for page in PAGES if page != "CHANGELOG.md"]  # that one names what there was before
WALKS = "docs/architecture.md"

LEFT_OUT = {"__pycache__", "data", "log"}  # folders that are not part of the repository, as most hidden ones
ROOMS = ("core", "dataset", "models", "engine", "analysis")  # in the order in which they may import
ENTRIES = ("train", "finetune", "test", "retrieval", "utils")
COMMANDS = "models/weights/__main__.py"  # an entry script in a folder
PROGRAMS = {"$EDITOR", "tensorboard", "pip", "pre-commit", "git", "rm", "cd", "pytest", "ruff", "mypy"}  # not ours
NOT_OURS = {"--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--logdir",  # torchrun's, tensorboard's
            "--shm-size", "--rand_flip"}  # docker's, the release's
MODULES = {"pytest", "pip", "ruff", "mypy", "venv", "torch.distributed.run"}  # `python -m` of what is installed
LARGEST_README = 12_000

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
FILE_NAME = re.compile(r"[\w.-]+\.(?:py|sh|toml|cff|md|yml|yaml)")
Command = namedtuple("Command", "words environment text")


# --- what there is -------------------------------------------------------------------------------------------

@cache
def files():
    """All files of the repository, relative to it."""
    found = []
    for folder, folders, names in os.walk(REPOSITORY):
        inside = Path(folder).relative_to(REPOSITORY)
        folders[:] = {name for name in folders if name[0] != "."} - LEFT_OUT | {".ci", ".github"} & set(folders)
        if folder == str(REPOSITORY):
            folders[:] = set(folders) - {"weights"}  # where the pages save them; models/weights is another
        found += [(inside / name).as_posix() for name in names]
    return found


@cache
def text_of(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


@cache
def sources(*suffixes):
    return "\n".join(text_of(name) for name in files() if name.endswith(suffixes))


@cache
def programs():
    """Modules of the repository that are started as programs."""
    return [module_of(name) for name in files() if name.endswith(".py") and not name.startswith("tests/")
            and "\nif __name__ == " in text_of(name)]


class Parsed(Exception):
    """Raised in place of parsing: args[0] is the parser."""


parse_args = argparse.ArgumentParser.parse_args


def module_of(script):
    return script.removesuffix(".py").replace("/", ".")


def started(name):
    """The module that `python -m name` runs."""
    return name if name in (*MODULES, *programs()) else f"{name}.__main__"


def parser_of(module):
    """The argparse parser that a program's main builds; None where it has none."""
    def stop(parser, *_, **__):
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", [module])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        program = importlib.import_module(module)
        if not re.search(r"argparse|[Pp]arser\(|flags\(", inspect.getsource(program)):
            return None
        try:
            program.main([])
        except Parsed as found:
            return found.args[0]
    raise AssertionError(f"{module} does not parse its flags first")


def options(parser):
    """All flags of a parser and of its commands."""
    found = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(options, action.choices.values()))
    return found


@pytest.fixture(scope="module")
def parsers(walks):
    """{module: its parser, or None}, made when it is asked for the first time."""
    return cache(parser_of)


@pytest.fixture(scope="module")
def flags(parsers):
    """Every flag: those that the programs' text adds, those that train.py derives from tables, and the launchers'."""
    added = {flag for name in files() if name.endswith(".py") and not name.startswith("tests/")
             for flag in re.findall(r"""add_argument\(\s*"(--[\w-]+)""", text_of(name))}
    return added | options(parsers("train")) | set(FLAG.findall(sources(".sh"))) | NOT_OURS | {"--help"}


# --- what the pages say --------------------------------------------------------------------------------------

def blocks(page, language):
    return [code for kind, code in FENCE.findall(text_of(page)) if kind == language]


def inline(page):
    return INLINE.findall(FENCE.sub("", text_of(page)))


def commands(page):
    """Commands of a page's bash blocks."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            environment = []
            while words and re.match(r"[A-Z_]+=", words[0]):
                environment.append(words.pop(0).partition("=")[0])
            if words:
                found.append(Command(words, environment, line.strip()))
    return found


def slugs(page):
    """Anchors of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ +(.+)$", FENCE.sub("", text_of(page)), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def new_files():
    return re.findall(r"^# new file: (\S+)", "\n".join(blocks(WALKS, "python")), re.MULTILINE)


# --- the walks -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def walks():
    """The examples of the walks become part of the program: new files are modules, the others get the lines added."""
    examples = [code for code in blocks(WALKS, "python") if re.match(r"# (new file: |in )", code)]
    tables = []  # (a table of the program, what was in it)
    with pytest.MonkeyPatch.context() as patch:
        for code in examples:
            kind, path = re.match(r"# (new file:|in) ([\w./]+)", code).groups()
            name = module_of(path).removesuffix(".__init__")
            if kind == "in":
                module = importlib.import_module(name)
                tables += [(value, dict(value)) for key, value in [*vars(module).items()]
                           if key.isupper() and isinstance(value, MutableMapping)]
                scope = dict(vars(module))  # the module's own names stay as they are
            else:
                module = ModuleType(name)
                module.__package__ = name.rpartition(".")[0]
                importlib.import_module(module.__package__)
                patch.setitem(sys.modules, name, module)
                scope = vars(module)
            exec(compile(code, path, "exec"), scope)
        yield
    for table, before in reversed(tables):
        table.clear()
        table.update(before)


def pretrain(framework, net, mode, parts=1):
    """A training step, the batch in `parts` parts -> (model, its output)."""
    torch.manual_seed(0)
    model = build_pretrainer(framework, net, mode, width=0.0625, queue_size=8)
    views, permutation = torch.randn(4, 3, 3, 4, 16, 16), torch.tensor([[1, 0], [0, 1]] * 2)
    grad_cache = GradCache(model, parts) if parts > 1 else None
    out = (grad_cache or model)(views, permutation)
    loss = total_loss(out.losses, {name: term.weight for name, term in TERMS.items()})
    grad_cache.backward(loss) if grad_cache else loss.backward()
    assert loss.isfinite()
    return model, out


def test_walk_backbone(walks, parsers):
    backbone = build_backbone("tiny3d", width=0.25)
    assert backbone(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 64, 2, 4, 4)
    assert build_classifier("tiny3d", 5, width=0.25)(torch.zeros(2, 3, 8, 32, 32)).shape == (2, 5)
    check_shapes("tiny3d", 16, 112)
    model, _ = pretrain("simclr", "tiny3d", "clip-sr-tc")
    assert all(p.grad.any() for p in model.encoder.backbone.parameters())
    assert parse_args(parsers("train"), ["--net", "tiny3d"]).net == "tiny3d"


@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_walk_term(walks, parsers, framework):
    _, out = pretrain(framework, "r3d", "clip-inv")
    assert set(out.losses) == {"clip", "inv"} and 0 < out.losses["inv"] < 2
    args = parse_args(parsers("train"), ["--mode", "clip-inv"])
    assert args.inv_weight == 0.5 and args.clip_weight == 1


@pytest.mark.parametrize("mode", ["clip", "tc", "clip-sr-tc"])
@pytest.mark.parametrize("parts", [1, 2])
def test_walk_framework(walks, parsers, mode, parts):
    model, out = pretrain("byol", "tiny3d", mode, parts)
    assert all(p.grad is not None and p.grad.any() for p in model.predictors.parameters())
    assert all(p.grad is None for p in model.key_encoder.parameters())
    assert {"clip", "tc"} & set(out.losses) and not {"clip", "tc"} & set(out.logits)
    args = parse_args(parsers("train"), ["--framework", "byol", "--byol-m", "0.996"])
    assert args.byol_m == 0.996 and args.moco_m == 0.999


def test_walk_data_set(walks, tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("a.avi,run,train\nb.mp4,jump,test\nc,jump,train\n")
    classes, (split,) = READERS["mine"](tmp_path, tmp_path)
    assert classes == ["jump", "run"]
    assert (split.number, split.train, split.test) == (1, [("run/a",), ("jump/c",)], [("jump/b",)])
    path.write_text("a.avi,run,train\nb,jump\n")
    with pytest.raises(DataError, match="row 2"):
        READERS["mine"](tmp_path, tmp_path)


def test_walks_name_new_files():
    assert len(new_files()) == 2 and not any((REPOSITORY / path).exists() for path in new_files())


def test_rooms_import_downwards():
    """As architecture.md says: a room imports from itself and from the rooms before it, nobody from entry scripts."""
    wrong = []
    for name in files():
        room = Path(name).parts[0]
        if not name.endswith(".py") or room not in ROOMS or name == COMMANDS:
            continue
        above = (*ROOMS[ROOMS.index(room) + 1:], *ENTRIES)
        for line in re.findall(r"^ *(?:from|import) (\w+)", text_of(name), re.MULTILINE):
            if line in above:
                wrong.append(f"{name}: {line}")
    assert not wrong


# --- links ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    broken = []
    for target in LINK.findall(INLINE.sub("", FENCE.sub("", text_of(page)))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        if not path.exists():
            broken.append(target)
        elif anchor and anchor not in slugs(path.resolve().relative_to(REPOSITORY).as_posix()):
            broken.append(target)
    assert not broken


def test_anchors_are_unique():
    for page in PAGES:
        if page != "CHANGELOG.md":
            assert len(set(slugs(page))) == len(slugs(page)), page


def test_readme_is_short_and_leads_to_every_page():
    text = text_of("README.md")
    assert len(text.encode()) <= LARGEST_README
    linked = {target.partition("#")[0] for target in LINK.findall(text)}
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


# --- files and names -----------------------------------------------------------------------------------------

@cache
def roots():
    return {Path(name).parts[0] for name in files() if "/" in name}


@cache
def file_names():
    return {Path(name).name for name in (*files(), *new_files())}


def missing_file(word):
    """Whether a word looks like a file or folder of the repository and is none."""
    word = word.strip("()[],;:.'\"").removeprefix("./")
    if re.search(r"[<>*{}$=]|\.\.\.", word) or word in new_files():
        return False
    if word.split("/")[0] in roots() and "/" in word:
        return not (word.startswith("process_data/data") or (REPOSITORY / word).exists())
    return bool(FILE_NAME.fullmatch(word)) and word not in file_names()


@pytest.mark.parametrize("page", PRESENT)
def test_files(page):
    code = inline(page) + [block for _, block in FENCE.findall(text_of(page))]
    words = {word for part in code for word in re.split(r"[\s`'\"(),=|]+", part)}
    assert not sorted(filter(missing_file, words))


@pytest.mark.parametrize("page", PRESENT)
def test_names_in_the_code(page):
    """`file.py`: `name` is in the file, and `package.module.name` can be imported."""
    wrong = []
    for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", text_of(page)):
        for name in re.findall(r"\w+", names):
            if not re.search(rf"^(?:def |class )?{name}\b", text_of(path), re.MULTILINE):
                wrong.append(f"{path}: {name}")
    packages = {Path(name).parts[0] for name in files() if name.count("/") == 1 and name.endswith("/__init__.py")}
    for name in inline(page):
        found = re.fullmatch(r"((\w+)(?:\.\w+)+)(\.\*)?(?:\(.*\))?", name)
        if not found or found[2] not in {*packages, "retrieval"} or FILE_NAME.fullmatch(name):
            continue
        module, _, attribute = found[1].rpartition(".")
        try:
            if not hasattr(importlib.import_module(module), attribute):
                importlib.import_module(found[1])
        except ImportError:
            wrong.append(name)
    assert not wrong


# --- commands and flags --------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PRESENT)
def test_flags(page, flags):
    text = re.sub(r"^ *(?:pip|git|pre-commit) .*$", "", text_of(page), flags=re.MULTILINE)
    derived = {"--" + word for word in re.findall(r"--<\w+>(\w+)", text)}
    assert not sorted(set(FLAG.findall(text)) - flags - derived)


def check_python(words, parsers):
    """What is wrong with what follows `python` -> text or None."""
    if words[:2] == ["-m", "torch.distributed.run"]:
        words = after_torchrun(words)
    if words[0] == "-m":
        module, words = started(words[1]), words[2:]
        if module in MODULES:
            return None
    else:
        if words[0] == "tests/pretend_run.py":  # which runs another script
            words = words[1:]
        script, words = words[0], words[1:]
        if script not in files():
            return f"no script {script}"
        if script.startswith("tests/"):
            return None
        module = module_of(script)
    if module not in programs():
        return f"{module} is no program"
    parser = parsers(module)
    if parser is None:
        return "it has no flags" if any(word.startswith("-") for word in words) else None
    try:
        parse_args(parser, words)
    except UsageError as error:
        return str(error)
    except SystemExit as end:
        return "the parser refuses it" if end.code else None
    return None


def after_torchrun(words):
    """The script and its flags, of what follows `torchrun`."""
    return words[next(number for number, word in enumerate(words) if word.endswith(".py")):]


def check_launcher(words, flags):
    """What is wrong with the arguments of `bash` -> text or None."""
    script, *rest = words
    if script not in files():
        return f"no script {script}"
    if "--" in rest:
        rest = rest[:rest.index("--")]  # options of sbatch follow
    if script in ("paper_scripts/launch.sh", "paper_scripts/slurm.sh"):
        mode, experiment, *rest = rest
        if not (REPOSITORY / "paper_scripts" / mode).is_dir():
            return f"no mode {mode}"
        if not re.fullmatch(r"demo|[a-z0-9]+(_[a-z0-9-]+){3,}", experiment):
            return f"{experiment} is no experiment"
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in flags]
    return f"no flag {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PRESENT)
def test_commands(page, parsers, flags):
    wrong = []
    for words, environment, text in commands(page):
        program, *rest = words
        if program == "torchrun":
            problem = check_python(after_torchrun(rest), parsers)
        elif Path(program).name in ("python", "python3"):
            problem = check_python(rest, parsers)
        elif program == "bash":
            problem = check_launcher(rest, flags)
        else:
            problem = None if program in PROGRAMS else f"{program} is not known to this test"
        for name in environment:
            if name not in sources(".py", ".sh") and name not in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
                problem = f"nothing reads {name}"
        if problem:
            wrong.append(f"{text}: {problem}")
    assert not wrong


@pytest.mark.parametrize("page", PRESENT)
def test_commands_in_sentences(page):
    """`python x.py` and `bash x.sh` within a line: the file is there. What follows may be a placeholder."""
    wrong = []
    for code in inline(page):
        program, *words = code.split()
        if program not in ("python", "bash", "torchrun") or not words or "<" in code:
            continue
        if words[0] == "-m":
            there = started(words[1]) in {*MODULES, *programs()}
        else:
            there = any(word in files() for word in words)
        if not there:
            wrong.append(code)
    assert not wrong


def test_the_checks_find_what_is_wrong(parsers, flags):
    """Each check refuses what does not exist."""
    assert check_python(["train.py", "--no_such_flag"], parsers)
    assert check_python(["no_such.py"], parsers) and check_python(["-m", "analysis.no_such"], parsers)
    assert check_python(["train.py", "--net", "no_such"], parsers) and not check_python(["train.py"], parsers)
    assert check_launcher(["paper_scripts/run/no_such.sh"], flags)
    assert check_launcher(["paper_scripts/launch.sh", "run", "demo_only"], flags)
    assert check_launcher(["paper_scripts/run/demo.sh", "--no_such_flag"], flags)
    assert check_launcher(["paper_scripts/slurm.sh", "run", "demo", "--no_such_flag", "--", "--time", "60"], flags)
    assert not check_launcher(["paper_scripts/slurm.sh", "run", "demo", "--epochs", "3", "--", "--time", "60"], flags)
    assert missing_file("models/no_such.py") and missing_file("no_such.py") and missing_file("docs/no_such")
    assert not missing_file("models/moco.py") and not missing_file("moco.py") and not missing_file("tests/")
