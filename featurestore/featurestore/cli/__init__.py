"""The command line: `featurestore VERB …`. Each module holds the verbs of one errand."""

from featurestore.cli.application import app
from featurestore.cli.entry import main

__all__ = ["app", "main"]
