"""Run the `stingy` command as `python -m stingy_clients`."""

from stingy_clients.cli import main

if __name__ == "__main__":
    main()
