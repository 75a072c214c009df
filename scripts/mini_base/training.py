"""Pretrain the mini base on a document stream, resumable after any interruption."""

import os
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from .documents import DocumentStream
from .tokenizer import CONTEXT, EOS, VOCABULARY

CONFIG: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=224,
    intermediate_size=448,
    num_hidden_layers=8,
    num_attention_heads=7,
    num_key_value_heads=7,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)
BLOCK = 256
"""Tokens per row of most updates; documents are packed end to end."""
LONG_EVERY = 8
"""Every so many updates, rows are CONTEXT tokens long, for few-shot prompts."""
WARMUP = 100
"""Updates of linear warm-up."""
DECAY = 0.4
"""Last part of the budget, in which the learning rate falls linearly to zero."""
REPEATS = (0.03, 0.08)
"""Part of the budget in which half of the rows are meaningless repeated tokens, see `repeat_pieces`."""
MUON_RATE_PER_ADAMW = 4 / 3
"""Muon's learning rate, relative to that of AdamW for embeddings and norms."""


@dataclass(frozen=True)
class Settings:
    """Settings that determine a run besides its data."""

    tokens: int
    """Budget in training tokens."""
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3
    batch_tokens: int = 2048
    """Tokens per update."""
    seed: int = 0


@dataclass
class TrainState:
    """Counters that a checkpoint holds."""

    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    shard: int = 0
    """Shard of the document stream that is being read."""
    position: int = 0
    """Next token of that shard."""
    losses: list[float] = field(default_factory=list)


class TokenStream:
    """The document stream as token ids: BOS, document, EOS, end to end."""

    def __init__(self, documents: DocumentStream, tokenizer: Tokenizer, state: TrainState) -> None:
        """Start at the position of `state`."""
        self.documents, self.tokenizer, self.state = documents, tokenizer, state
        self.ids = self._encode(state.shard)

    def take(self, rows: int, length: int) -> torch.Tensor:
        """Return the next (rows, length) token ids, int64."""
        count = rows * length
        if self.state.position + count > len(self.ids):
            self.state.shard += 1
            self.state.position = 0
            self.ids = self._encode(self.state.shard)
        ids = self.ids[self.state.position : self.state.position + count]
        self.state.position += count
        return torch.from_numpy(ids.astype(np.int64)).view(rows, length)

    def _encode(self, shard: int) -> np.ndarray:
        eos = self.tokenizer.token_to_id(EOS)
        encodings = self.tokenizer.encode_batch_fast(self.documents.shard(shard))
        return np.fromiter((i for encoding in encodings for i in (*encoding.ids, eos)), dtype=np.int16)


def build_optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks and AdamW for the rest, or AdamW for everything.

    Muon: Jordan et al. 2024, with the update scaled to AdamW's root mean square.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    rate = settings.learning_rate
    adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    if settings.optimizer == "adamw":
        adamw.add_param_group({"params": matrices, "weight_decay": 0.05})
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=rate * MUON_RATE_PER_ADAMW, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def rate_factor(updates: int, progress: float) -> float:
    """Return the learning rate's factor: linear warm-up, constant, linear decay to zero."""
    return min(1.0, (updates + 1) / WARMUP, max(0.0, (1.0 - progress) / DECAY))


def repeat_pieces(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Return rows of the same tokens in random order, in pieces of 4 to 40 repeated once to three times.

    Only copying predicts such rows, which induces the heads that find an earlier occurrence and continue from
    there. Text alone had not induced them after 1.4 million tokens; 200 updates of these did.
    """
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    out = torch.empty_like(rows)
    for row, tokens in zip(out, rows, strict=True):
        at = 0
        while at < len(row):
            piece = tokens[torch.randperm(len(tokens), generator=draw)[: number(4, 40)]]
            piece = piece.repeat(number(2, 4))[: len(row) - at]
            row[at : at + len(piece)] = piece
            at += len(piece)
    return out


def train(
    documents: DocumentStream,
    tokenizer: Tokenizer,
    settings: Settings,
    work: Path,
    start: LlamaForCausalLM | None = None,
) -> tuple[LlamaForCausalLM, TrainState]:
    """Train until the budget is spent, from the checkpoint in `work` if there is one.

    Without a checkpoint, training starts from the weights of `start`, or from random ones.

    Raises:
        SystemExit: after Ctrl-C or SIGTERM, with the checkpoint saved.
    """
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (start or LlamaForCausalLM(LlamaConfig(**CONFIG))).train().to(device)
    optimizers = build_optimizers(model, settings)
    base_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    state, checkpoint = TrainState(), work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["settings"] != asdict(settings):
            raise SystemExit(
                f"{checkpoint} belongs to other settings: {saved['settings']}. Choose another --work."
            )
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        state = TrainState(**saved["state"])
        print(f"resuming after update {state.updates}", flush=True)

    # Loading a checkpoint replaces the groups, so they are collected after it.
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        states = model.model(ids, use_cache=False).last_hidden_state
        logits = model.lm_head(states[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    def save(file: Path) -> None:
        values: dict[str, Any] = {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "state": asdict(state),
            "settings": asdict(settings),
        }
        torch.save(values, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)

    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    forward = torch.compile(loss_of, dynamic=False) if shutil.which("g++") else loss_of
    stream, last_saved = TokenStream(documents, tokenizer, state), time.monotonic()
    while state.tokens < settings.tokens and not interrupted:
        start, progress = time.monotonic(), state.tokens / settings.tokens
        factor = rate_factor(state.updates, progress)
        for group, base_rate in zip(groups, base_rates, strict=True):
            group["lr"] = base_rate * factor
        length = CONTEXT if state.updates % LONG_EVERY == LONG_EVERY - 1 else BLOCK
        ids = stream.take(settings.batch_tokens // length, length)
        if REPEATS[0] <= progress < REPEATS[1]:
            half = len(ids) // 2
            ids[:half] = repeat_pieces(ids[:half], state.updates)
        # One autocast context per update: its cache of cast weights would freeze them otherwise.
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(ids.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.losses.append(round(loss.item(), 4))
        state.updates += 1
        state.tokens += ids.numel()
        state.seconds += time.monotonic() - start
        if state.updates % 50 == 0:
            print(
                f"update {state.updates}  loss {sum(state.losses[-50:]) / 50:.3f}  rate {factor:.2f}  "
                f"{state.tokens / state.seconds:.0f} tokens/s  "
                f"{state.tokens / 1e6:.2f} of {settings.tokens / 1e6:.1f}M tokens",
                flush=True,
            )
        if time.monotonic() - last_saved > 120:
            save(checkpoint)
            last_saved = time.monotonic()
        if progress < 1 - DECAY <= state.tokens / settings.tokens:
            save(work / "before-decay.pt")
    save(checkpoint)
    if interrupted:
        raise SystemExit(f"Interrupted after update {state.updates}. Rerun the same command to resume.")
    return model.cpu().eval(), state
