"""The command `completion`."""

import argparse

from tfdeit.cli.arguments import Parser
from tfdeit.presentation.terminal import result

DESCRIPTION = "Prints the script that makes a shell complete commands, options, names and files."
EXAMPLES = """
eval "$(tfdeit completion bash)"    # in .bashrc; zsh likewise
tfdeit completion fish | source
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def run(args: argparse.Namespace) -> int:
    """Prints the completion script."""
    import argcomplete

    script = argcomplete.shellcode(["tfdeit"], shell=args.shell)
    result({"shell": args.shell, "script": script}, script)
    return 0
