"""The ground floor: errors, files, the process group, how a process begins and ends. Imports nothing of ours."""
from .imports import begin

begin()
