"""accelerate launch -m midalign.train RECIPE: `midalign-train` in several processes."""

from midalign.cli.train import main

main()
