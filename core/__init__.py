"""The ground floor: errors, files and the process group. Imports nothing of ours."""
