"""Pretrain the bundled mini base: text, tokenizer, training, measurement, model card.

    python scripts/pretrain_mini_base.py --data ../shared/data --tokens 24e6

Reads training text only (`mini_base/texts.py`), trains a small Llama on it, and writes `midalign/bases/mini`.
Interrupted runs resume from the last checkpoint in `--work`. `--measure FOLDER` only measures a base and
prints its figures as JSON.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from a checkout that is not installed

from mini_base.card import write_card  # noqa: E402
from mini_base.documents import DocumentStream  # noqa: E402
from mini_base.measurement import LanguageFigures, measure_base  # noqa: E402
from mini_base.texts import read_corpus  # noqa: E402
from mini_base.tokenizer import train_tokenizer  # noqa: E402
from mini_base.training import Settings, train  # noqa: E402

PREVIOUS = Path(__file__).parent / "mini_base" / "previous.json"
"""Figures of the base that the current one replaced: `--measure` of `midalign/bases/mini` at b23b41c."""


def load_base(folder: Path) -> LlamaForCausalLM:
    """Load a base as it is shipped, in bfloat16, and compute in fp32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the text archives"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "midalign" / "bases" / "mini")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "mini-base", help="folder of checkpoints"
    )
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="base to train further")
    parser.add_argument("--tokens", type=float, default=24e6, help="budget in training tokens")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens per update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="only measure this base")
    arguments = parser.parse_args()
    if arguments.measure:
        tokenizer = Tokenizer.from_file(str(arguments.measure / "tokenizer.json"))
        figures = measure_base(load_base(arguments.measure), tokenizer)
        print(json.dumps([asdict(row) for row in figures], indent=1))
        return
    settings = Settings(
        tokens=int(arguments.tokens),
        optimizer=arguments.optimizer,
        learning_rate=arguments.learning_rate,
        batch_tokens=arguments.batch_tokens,
        seed=arguments.seed,
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(arguments.data)
    staging = arguments.work / "export"
    shutil.rmtree(staging, ignore_errors=True)
    earlier = arguments.start or arguments.out
    if (earlier / "tokenizer.json").exists():  # a base that is trained again keeps its tokenizer
        staging.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(earlier / name, staging / name)
    else:
        train_tokenizer(corpus.sentences, staging)
    tokenizer = Tokenizer.from_file(str(staging / "tokenizer.json"))
    start = load_base(arguments.start) if arguments.start else None
    documents = DocumentStream(corpus, settings.seed)
    model, state = train(documents, tokenizer, settings, arguments.work, start)

    model.to(torch.bfloat16).save_pretrained(staging)
    shipped = load_base(staging)
    figures = measure_base(shipped, tokenizer, settings.seed)
    previous = [LanguageFigures(**row) for row in json.loads(PREVIOUS.read_text("utf-8"))]
    parameters = sum(p.numel() for p in shipped.parameters())
    device = f"{'GPU' if torch.cuda.is_available() else 'CPU'}, {torch.get_num_threads()} threads"
    card = write_card(parameters, corpus, state, settings, device, figures, previous)
    (staging / "README.md").write_text(card, "utf-8")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staging.iterdir()):
        shutil.copyfile(file, arguments.out / f"{file.name}.tmp")
        os.replace(arguments.out / f"{file.name}.tmp", arguments.out / file.name)
    print(card)


if __name__ == "__main__":
    main()
