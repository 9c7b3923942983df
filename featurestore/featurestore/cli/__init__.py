"""The command line: `featurestore VERB …`. Each module holds the verbs of one errand."""

from featurestore.cli.entry import command_line, main

__all__ = ["command_line", "main"]
