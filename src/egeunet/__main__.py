"""`python -m egeunet` is the same program as `egeunet`."""

from egeunet.cli.main import main

if __name__ == "__main__":
    main()
