"""Run by COMET's Python: `make_comet_model.py FOLDER TEXT HIDDEN LAYERS` writes a random COMET model.

FOLDER gets what COMET's own training writes: hparams.yaml and checkpoints/model.ckpt; in `encoder` lies what
real models take from the hub, an XLM-R's config and tokenizer, here trained on TEXT.
"""

import sys
from pathlib import Path

import pytorch_lightning
import torch
import yaml
from comet.models import RegressionMetric
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast

folder, text, hidden, layers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
encoder, checkpoint = folder / "encoder", folder / "checkpoints" / "model.ckpt"

specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=specials, show_progress=False)
tokenizer.train([str(text)], trainer)
tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(encoder)
XLMRobertaConfig(
    vocab_size=tokenizer.get_vocab_size(),
    hidden_size=hidden,
    num_hidden_layers=layers,
    num_attention_heads=2,
    intermediate_size=4 * hidden,
    max_position_embeddings=514,
    type_vocab_size=1,
).save_pretrained(encoder)

torch.manual_seed(0)
model = RegressionMetric(
    pretrained_model=str(encoder), load_pretrained_weights=False, local_files_only=True, hidden_sizes=[16]
)
with torch.no_grad():  # as it starts, the layers hardly matter and all scores are alike
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
hyperparameters = dict(model.hparams)
checkpoint.parent.mkdir()
torch.save(
    {
        "state_dict": model.state_dict(),
        "hyper_parameters": hyperparameters,
        "pytorch-lightning_version": pytorch_lightning.__version__,
    },
    checkpoint,
)
(folder / "hparams.yaml").write_text(yaml.dump(hyperparameters))
