"""Write tiny real checkpoints, offline: a small BERT with a tokenizer that can spell any ASCII text."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

COMMON = "the a an this that is was were and or not about text it i you we film movie good bad great awful loved hated"
TOPICAL = "sports business science football match market goal player bank money space planet"
UNIGRAM_WORDS = "good film bad day money planet goo fi lm the was match great business"


def save_tokenizer(folder: Path, *, max_length: int = 128) -> int:
    """Write a WordPiece tokenizer that can spell any ASCII text; return the size of its vocabulary."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON.split(), *TOPICAL.split(), *letters]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    pieces = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), model_max_length=max_length)
    tokenizer.save_pretrained(str(folder))
    return len(tokenizer)


def save_unigram_tokenizer(folder: Path) -> int:
    """Write a small SentencePiece tokenizer, with two separators between the texts of a pair; return its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = UNIGRAM_WORDS.split()
    singles = ["▁", *string.ascii_lowercase, *"[].,MASK"]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -5.0 - number / 10) for number, word in enumerate(words)]
    pieces += [(piece, -9.0) for piece in dict.fromkeys(singles)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **special)
    fast.save_pretrained(folder)
    return len(fast)


def tiny_config(vocabulary: int, *, positions: int = 128, **more: Any) -> Any:
    """Return the config of a BERT of two layers, 32 wide."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        **more,
    )


def save_classifier(
    folder: Path,
    labels: list[str],
    *,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    positions: int = 128,
    **more: Any,
) -> Path:
    """Write a random classifier whose weights are large enough that its scores differ visibly between texts."""
    import torch
    from transformers import BertForSequenceClassification

    vocabulary = save_tokenizer(folder, max_length=positions)
    names = dict(enumerate(labels))
    torch.manual_seed(seed)
    ids = {name: index for index, name in names.items()}
    config = tiny_config(vocabulary, positions=positions, id2label=names, label2id=ids, **more)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(40.0 if "classifier" in name else 8.0)
    model.save_pretrained(str(folder))
    if settings is not None:
        (folder / "classifier.json").write_text(json.dumps({"format": 1, **settings}), encoding="utf-8")
    return folder


def save_base(folder: Path, *, seed: int = 0) -> Path:
    """Write a headless BERT, as a base for fine-tuning."""
    import torch
    from transformers import BertModel

    vocabulary = save_tokenizer(folder)
    torch.manual_seed(seed)
    BertModel(tiny_config(vocabulary)).save_pretrained(str(folder))
    return folder


def tiny_family(family: str, *, layers: int = 2, positions: int = 40, pad_token_id: int = 0) -> Any:
    """Return a random NLI classifier of a family, 32 wide, with a vocabulary of 50."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": layers, "n_heads": 2, "hidden_dim": 64}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 16
    torch.manual_seed(0)
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    shared = {
        "vocab_size": 50,
        "max_position_embeddings": positions,
        "pad_token_id": pad_token_id,
        "type_vocab_size": 2,
    }
    return AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(family, id2label=names, **shared, **sizes)
    )
