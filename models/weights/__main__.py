"""Weights of anybody: what a file holds, its backbone as a file of ours, and ours as a folder or a file for others.

    python -m models.weights inspect FILE                   what a checkpoint holds, and which networks it fits
    python -m models.weights convert FILE OUT --net r21d    its backbone, as a file of ours
    python -m models.weights save CHECKPOINT DIR            its network, as a folder that others load in one line
    python -m models.weights push DIR owner/name            that folder to the Hugging Face hub
    python -m models.weights export DIR --to onnx --dataset ucf101      as a file that runs without this project
"""
import argparse

from analysis import export
from core.exits import run
from core.parser import new_parser
from models.weights import convert, save


def flags() -> argparse.ArgumentParser:
    parser = new_parser("python -m models.weights", __doc__, defaults=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for part in (convert, save, export):
        part.add_flags(commands)
    return parser


def main(argv: list[str]) -> None:
    args = flags().parse_args(argv)
    args.does(args)


if __name__ == "__main__":
    run(main, stopped="what was not whole is taken away")
