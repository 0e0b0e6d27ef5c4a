"""`python -m stingy_clients` is the `stingy` command."""

from stingy_clients.cli import main

if __name__ == "__main__":
    main()
