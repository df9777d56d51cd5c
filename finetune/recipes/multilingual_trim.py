"""Cut the vocabulary of a multilingual model to the pieces that 30 languages use most, and center its embeddings.

`python -m finetune.recipes.multilingual_trim BASE OUT --pieces N --table rows.parquet ...` takes the words of a
language from the package wordfreq (`pip install wordfreq`), with their frequencies, and for a language that it lacks
from a Hunspell dictionary (Debian packages hunspell-th and hunspell-sw), with the root of the product of their pieces'
probabilities. Single characters are kept, and the pieces that occur most in the average language.

The embeddings of E5 models lie in a narrow cone. The bias of the last layer norm is lowered by the mean embedding of
texts of the tables, read after `query: ` as in the training of E5, which takes that mean out of every embedding.

The tokenizer is made to repeat its first token: `<s> <s> text </s></s> hypothesis </s>`. Under the shared-text mask a
text does not see the first token of a sequence, and E5 models need one there: without it their zero-shot accuracy on
SIB-200 (English, German, Swahili, Chinese) falls from 0.67 to 0.57; with a second one, which belongs to the text, it
does not.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from tokenizers import Tokenizer

from finetune.core.errors import ReheadError
from finetune.core.tables.files import read_table
from finetune.modeling.vocabulary import TOKENIZER, trim_vocabulary

LANGUAGES = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko"),
    *("nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh", "sw"),
)
UNSPACED = {"ja", "th", "zh"}
"""Languages written without spaces: most of their words follow another character."""

DICTIONARIES = {"th": Path("/usr/share/hunspell/th_TH.dic"), "sw": Path("/usr/share/hunspell/sw_TZ.dic")}
CAPITALIZED = 0.1
"""Weight of a capitalized word relative to the same word in lower case; wordfreq has lower case alone."""

CENTERED_ON, PREFIX = 1500, "query: "
"""Texts whose mean embedding is taken out, and what stands before them."""

TOKENIZER_CONFIG = "tokenizer_config.json"
TEXT_COLUMNS = ("text", "premise", "hypothesis")


@dataclass(frozen=True)
class Word:
    """A word's share of all word occurrences of its language, and its pieces."""

    share: float
    pieces: frozenset[int]


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--pieces", default=123_000, show_default=True, help="Size of the new vocabulary.")
@click.option("--table", "tables", multiple=True, type=click.Path(exists=True, path_type=Path), help="Training rows.")
def main(base: Path, out: Path, pieces: int, tables: Sequence[Path]) -> None:
    """Write the model in BASE as the folder OUT, with fewer pieces."""
    tokenizer = Tokenizer.from_file(str(base / TOKENIZER))
    tokenizer.no_truncation()
    words = {language: _words(language, tokenizer) for language in LANGUAGES}
    if tables:
        counts = Counter(word for table in tables for text in _texts(table) for word in text.split())
        words["tables"] = _weighted(list(counts), list(counts.values()), tokenizer)
    characters = {number for number in range(tokenizer.get_vocab_size()) if len(_bare(tokenizer, number)) <= 1}
    kept = frequent_pieces(words, pieces, characters)
    try:
        done = trim_vocabulary(base, [], out, keep=kept)
    except ReheadError as error:
        raise click.ClickException(str(error)) from error
    repeat_first_token(out)
    if tables:
        center(out, random.Random(0).sample(_texts(tables[0]), CENTERED_ON))
    for language, spelled in words.items():
        click.echo(f"{language}: {sum(word.share for word in spelled if word.pieces <= kept):.1%} of words as before")
    click.echo(f"{done.pieces:,} of {done.pieces_before:,} pieces: {out}")


def center(folder: Path, texts: Sequence[str]) -> None:
    """Lower the last layer norm's bias of the BERT model in `folder` by the texts' mean embedding.

    An embedding is the mean of the last states, to which the bias is added; so the new embeddings have mean 0.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder, add_pooling_layer=False), AutoTokenizer.from_pretrained(folder)
    total = torch.zeros(model.config.hidden_size)
    with torch.no_grad():
        for text in texts:
            batch = tokenizer(PREFIX + text, truncation=True, max_length=128, return_tensors="pt")
            total += model(batch["input_ids"]).last_hidden_state[0].mean(dim=0)
        model.encoder.layer[-1].output.LayerNorm.bias -= total / len(texts)
    model.save_pretrained(folder)


def repeat_first_token(folder: Path) -> None:
    """Make the tokenizer in `folder` begin each sequence with its first special token twice.

    Its class becomes the plain one: the tokenizer classes of a family build the template of a sequence themselves.
    """
    file = folder / TOKENIZER
    content = json.loads(file.read_text(encoding="utf-8"))
    for sequence in ("single", "pair"):
        template = content["post_processor"][sequence]
        template.insert(0, template[0])
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def frequent_pieces(words: Mapping[str, Sequence[Word]], pieces: int, needed: Iterable[int]) -> set[int]:
    """Return `needed` and the most frequent other pieces, `pieces` in all.

    A piece's frequency is the mean over languages of the share of word occurrences that have it.

    Args:
        words: language -> its words.
    """
    frequency: defaultdict[int, float] = defaultdict(float)
    for spelled in words.values():
        for word in spelled:
            for piece in word.pieces:
                frequency[piece] += word.share
    kept = set(needed)
    others = (piece for piece in sorted(frequency, key=frequency.__getitem__, reverse=True) if piece not in kept)
    return kept.union(itertools.islice(others, max(0, pieces - len(kept))))


def _words(language: str, tokenizer: Tokenizer) -> list[Word]:
    """Return the words of a language."""
    before = "、" if language in UNSPACED else ""
    if language in DICTIONARIES:
        lines = DICTIONARIES[language].read_text(encoding="utf-8").splitlines()[1:]
        words = [before + word for word in sorted({line.split("/")[0].strip() for line in lines} - {""})]
        # a dictionary has no frequencies: the root of the product of its pieces' probabilities stands for a word's
        scores = _log_probabilities(tokenizer)
        weights = [math.exp(sum(scores[number] for number in set(ids)) / 2) for ids in _ids(tokenizer, words)]
        return _weighted(words, weights, tokenizer)
    import wordfreq

    frequencies = wordfreq.get_frequency_dict(language, "small")
    frequencies = {word.capitalize(): CAPITALIZED * value for word, value in frequencies.items()} | frequencies
    return _weighted([before + word for word in frequencies], list(frequencies.values()), tokenizer)


def _weighted(words: Sequence[str], weights: Sequence[float], tokenizer: Tokenizer) -> list[Word]:
    """Return words with their shares of the sum of all weights, and their pieces."""
    total = sum(weights)
    return [Word(weight / total, frozenset(ids)) for weight, ids in zip(weights, _ids(tokenizer, words), strict=True)]


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _bare(tokenizer: Tokenizer, number: int) -> str:
    return str(tokenizer.id_to_token(number)).removeprefix("▁")


def _log_probabilities(tokenizer: Tokenizer) -> list[float]:
    """Return the log-probability of each piece of a Unigram tokenizer, by id."""
    return [score for _, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def _texts(table: Path) -> list[str]:
    """Return every cell of a table's text columns."""
    rows = read_table(table)
    return [str(cell) for name in TEXT_COLUMNS if name in rows.columns for cell in rows.column(name)]


if __name__ == "__main__":
    main()
