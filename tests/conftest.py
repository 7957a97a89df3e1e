import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests"))

# a shell's background job ignores Ctrl-C, which the tests send to what they start
signal.signal(signal.SIGINT, signal.default_int_handler)
