"""A text in a language that a model does not know is noticed, and hardly any other."""

import pytest

from finetune.core.language import other_language, warning_of_languages

pytestmark = pytest.mark.fast
COMPLAINT = "Das Gerät kam kaputt an und niemand antwortet auf meine Nachrichten."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (COMPLAINT, "de"),
        ("La atención al cliente fue terrible y no me devolvieron el dinero.", "es"),
        ("Ужасное обслуживание, больше никогда сюда не приду.", "ru"),
        ("サポートの対応がとても遅くて困りました。", "ja"),
    ],
)
def test_a_sentence_in_another_language_is_noticed(text: str, expected: str) -> None:
    assert other_language(text, ["en"]) == expected
    assert other_language(text, ["en", expected]) is None
    assert other_language(text, []) is None  # of a model whose languages are unknown nothing can be said


@pytest.mark.parametrize(
    "text",
    ["", "12:30", "ok", "Great phone, works like a charm!", "Support solved my problem in five minutes.", "lol",
     "What is the capital of France?", "Paris", "order #4711 arrived broken", "a gripping film", "C++ vs. Rust"],
)  # fmt: skip
def test_english_and_texts_too_short_to_tell_are_not(text: str) -> None:
    assert other_language(text, ["en"]) is None


def test_a_table_is_warned_of_from_a_tenth_on() -> None:
    english = ["The film was a joy from the first minute to the last."] * 9
    sentence = warning_of_languages([*english, COMPLAINT], ["en"], "sentiment")
    assert sentence is not None
    assert sentence.startswith(
        "1 of the first 10 texts are in another language (de) than sentiment was trained for (en)"
    )
    assert warning_of_languages([*english, *english, COMPLAINT], ["en"], "sentiment") is None
    assert warning_of_languages([], ["en"], "sentiment") is None
