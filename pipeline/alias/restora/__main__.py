"""``python -m restora`` is the command ``restora``, whatever files lie in the working folder."""

import sys


def main() -> None:
    """The ``restora`` command."""
    from pipeline.cli import main as command

    command()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, where a file random.py of one's own would hide that of Python
    main()
