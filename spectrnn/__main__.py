"""Entry point of `python -m spectrnn`."""

from spectrnn.cli.main import main

if __name__ == "__main__":
    main()
