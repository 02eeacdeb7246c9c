"""`python -m corrnet_train.cli` is `corrnet`."""

from corrnet_train.cli import main

if __name__ == "__main__":
    main()
