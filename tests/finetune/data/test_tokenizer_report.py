"""Whether a base can read the texts."""

from pathlib import Path

import pytest

from finetune.core.model_folder import read, shipped_dir
from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens
from finetune.data.tokenizer_report import TokenizerReport, tokenizer_report

pytestmark = pytest.mark.fast

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def english() -> TextEncoder:
    """The tokenizer of a model that ships: the usual English WordPiece."""
    folder = read(shipped_dir() / "sentiment")
    return TextEncoder.load(folder.path, folder.config, max_length=64)


def fit(encoder: TextEncoder, texts: list[str]) -> TokenizerReport:
    return tokenizer_report(encoder, texts, Tokens(texts, None, encoder), base="the base", seed=0)


def test_english_fits_an_english_base(english: TextEncoder) -> None:
    result = fit(
        english, ["A film that is much better than I had expected.", "The acting was wooden from the start."] * 9
    )
    assert result.warnings == ()
    assert 1.0 <= result.tokens_per_word < 1.4
    assert (result.scripts, next(iter(result.languages))) == ({"Latin": 1.0}, "en")
    assert (result.truncated, result.unknown) == (0.0, 0.0)
    assert result.lengths["1.0"] == max(
        len(row) for row in english(["A film that is much better than I had expected."])
    )


def test_another_language_does_not_and_the_warning_names_bases_that_would(english: TextEncoder) -> None:
    result = fit(english, ["Makanan di warung ini sangat lezat dan harganya terjangkau untuk mahasiswa."] * 5)
    assert result.tokens_per_word > 1.8
    assert len(result.warnings) == 1
    assert result.warnings[0].partition("multilingual bases: ")[2].startswith("topics-multilingual, ")
    assert "xlm-roberta-base" in result.warnings[0] and "language id 100%" in result.warnings[0]


def test_letters_it_has_no_token_for_are_counted(english: TextEncoder) -> None:
    result = fit(english, ["good 🜁 🜂 film"])
    assert result.unknown == pytest.approx(2 / 4)
    assert any("has no token for 50.0%" in warning for warning in result.warnings)


def test_a_script_without_spaces_counts_each_letter_as_a_word(english: TextEncoder) -> None:
    assert fit(english, ["一二三"]).tokens_per_word == pytest.approx(1.0)


def test_many_cut_texts_are_warned_about(english: TextEncoder) -> None:
    result = fit(english, ["very " * 100 + "good", "good"])
    assert result.truncated == 0.5
    assert result.lengths["1.0"] == 64
    assert any("50% of the texts are truncated at 64 tokens" in warning for warning in result.warnings)


@pytest.mark.skipif(not DATA.is_dir(), reason="the labeled data beside the project is not here")
@pytest.mark.parametrize(
    ("name", "warns"), [("nusax_sentiment/train", True), ("sst2/dev", False), ("trec/train", False)]
)
def test_real_tables_warn_where_they_should(english: TextEncoder, name: str, warns: bool) -> None:
    from finetune.core.tables.files import read_table

    texts = [row["text"] for row in read_table(DATA / f"{name}.parquet").rows[:2000]]
    assert any("tokens here" in warning for warning in fit(english, texts).warnings) == warns
