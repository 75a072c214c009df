"""accelerate launch -m midalign.train RECIPE: `midalign-train` in several processes."""

from midalign.cli.train import main

if __name__ == "__main__":  # processes of `--jobs` import this too
    main()
