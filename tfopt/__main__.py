"""`python -m tfopt`: the command line."""

from tfopt.cli import main

if __name__ == "__main__":
    main(prog_name="python -m tfopt")
