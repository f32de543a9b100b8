"""`python -m spectrnn` is `spectrnn`."""

from spectrnn.cli.main import main

if __name__ == "__main__":
    main()
