"""The program `python -m midalign`."""

from midalign.cli import main

if __name__ == "__main__":  # a sweep's process for Ray imports this too
    main()
