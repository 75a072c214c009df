"""python -m midalign"""

from midalign.cli import main

main()
