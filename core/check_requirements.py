"""Exit 1, naming them, if packages of the requirements files given are not installed in a version they allow."""
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    from packaging.requirements import Requirement
except ImportError:  # every pip carries it
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

lacking = []
for file in sys.argv[1:]:
    with open(file) as lines:
        for line in lines:
            text = line.partition("#")[0].strip()
            if not text:
                continue
            need = Requirement(text)
            try:
                fits = need.specifier.contains(version(need.name), prereleases=True)
            except PackageNotFoundError:
                fits = False
            if not fits:
                lacking.append(text)
if lacking:
    print(f"not installed: {', '.join(lacking)}")
    sys.exit(1)
