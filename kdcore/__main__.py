"""`python -m kdcore`: the command line, where its script is not on the path."""

from kdcore.cli.main import main

if __name__ == "__main__":
    main()
