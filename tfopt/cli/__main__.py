"""Run the command line: `python -m tfopt.cli`."""

from tfopt.cli import main

if __name__ == "__main__":
    main()
