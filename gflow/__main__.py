"""`python -m gflow`: the command line."""

from gflow.cli import program

if __name__ == "__main__":
    program()
