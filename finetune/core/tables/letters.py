"""How plausible a decoded text is, by the letters of languages and the common characters of Chinese, Japanese and
Korean. Only facts about scripts belong here; text_encoding.py samples the bytes of files."""

from __future__ import annotations

import math
import re
import unicodedata
from functools import cache

PUNCTUATION = frozenset(" ­¡¿«»‹›“”„‟‘’‚‛–—―…•·°€£¥§©®™ªº½¼¾²³¹×÷±№′″−←→†‡‰´¨¸")
"""Characters beside letters that texts of any language hold."""

INSIDE_WORDS = frozenset("’‘·\u00ad-")
"""Punctuation that may stand between two letters."""

AFTER_LETTERS = INSIDE_WORDS | frozenset("\u00a0“”»«›‹…–—•°™®©ªº²³")
"""Punctuation that may directly follow a letter."""

ACCENTED = {
    "en": "éèêëàâäáçîïíôöóûüùúñåøæœ",
    "de": "äöüßéèàêç",
    "nl": "éëïèêöüáóäàçíâ",
    "af": "êëéèïôöüáóûîä",
    "fr": "éèêëàâçîïôûùüÿœæ",
    "ca": "àèéíïòóúüç",
    "oc": "àèéíïòóúüç",
    "lb": "äéëêèôöüûâ",
    "br": "êéâôùñüè",
    "es": "áéíóúüñ",
    "gl": "áéíóúüñï",
    "eu": "ñçü",
    "an": "áéíóúñ",
    "pt": "áâãàéêíóôõúüç",
    "it": "àèéìíîòóùú",
    "sv": "åäöéüàá",
    "fi": "äöåéšž",
    "et": "äöõüšž",
    **dict.fromkeys(("da", "no", "nb", "nn", "se"), "æøåéèêóòôäöü"),
    "is": "áéíóúýðþæö",
    "fo": "áíóúýðæø",
    "ga": "áéíóú",
    "cy": "âêîôûŵŷäëïöü",
    "sq": "çë",
    **dict.fromkeys(("cs", "sk"), "áäčďéěíĺľňóôöŕřšťúůüýž"),
    "pl": "ąćęłńóśźż",
    "hu": "áéíóöőúüű",
    "ro": "ăâîşţșț",
    **dict.fromkeys(("hr", "bs", "sr", "sl"), "čćđšž"),
    "tr": "çğıöşüâîûi̇",
    "az": "çğıöşüə",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
}
"""Language -> its letters beside a to z, in lower case."""

BY_FREQUENCY = {
    "ru": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "uk": "оаинвіретсклмудпзяьбгйчхцжюїшєщфґ",
    "be": "анеіярослткмвудзпыьгцчбйжшўхюэфё",
    "bg": "аиоентрсвлкдпмзгяъубчцйжщхшюфь",
    "sr": "аиоенрсутдјклвмпзгбчшцжљњћђхфџ",
    "mk": "аоеинтрсвдклпмугзбјчшцжќѓњљхфџѕ",
    "el": "αοιετσνηυρπκμλςίόάγέδήωχθύφβώξζψϊϋΐΰ",
    "he": "יוהלאתרבמשנעדקחפםצכגסזטןךףץ",
    "ar": "اليمنوترعبدسفكةهقحجأشصىطخضإغذزثءظؤئآ",
    "th": "านร่อกเ้งมัยลวดทิสีตะปบคุหืูแจ็พชำ์ขใไึโผถณธฉศซษภญฝฟๆฏฐฎ๊๋ฒฆฬฮฤ",
}
"""Language -> its letters, the most frequent first; texts in it hold few words of the Latin alphabet."""

FINAL = frozenset("ךםןףץς")
"""Letters that only end words."""

UNLIKELY = math.log(1e-4)
OPENING_CAPITAL, INNER_CAPITAL = math.log(0.05), math.log(0.02)
MARK = -4.0
"""Log probabilities of characters that are not lower-case letters of the language."""


def likelihood(text: str, language: str) -> tuple[float, int]:
    """Return the mean log probability of the characters of `text` that are not ASCII, as letters of a language of
    `BY_FREQUENCY`, and their number; a character that is none of its letters has probability 1e-4."""
    weights = _weights(language)
    total, count, before = 0.0, 0, " "
    for letter in text:
        if not letter.isascii():
            count += 1
            follows = before.isalpha() and not before.isascii()
            lower = letter.lower()
            if lower in weights:  # a capital within a word suggests a wrong alphabet
                total += weights[lower]
                total += 0.0 if letter == lower else INNER_CAPITAL if follows else OPENING_CAPITAL
            elif letter in PUNCTUATION:
                total += MARK if not follows or letter in AFTER_LETTERS else UNLIKELY
            else:
                total += UNLIKELY
        if before in FINAL and letter.isalpha():
            total += INNER_CAPITAL
        before = letter
    return total / max(1, count), count


@cache
def _weights(language: str) -> dict[str, float]:
    letters = BY_FREQUENCY[language]
    raw = [1 / (rank + 4) for rank in range(len(letters))]
    return {letter: math.log(weight / sum(raw)) for letter, weight in zip(letters, raw, strict=True)}


def is_spelled_as(text: str, language: str) -> bool:
    """Return whether the letters of `text` beside a to z belong to a language of `ACCENTED`, in plausible positions."""
    known = ACCENTED[language]
    letters = foreign = 0
    for before, letter, after in _neighbors(text):
        if letter.isascii():
            continue
        if letter.lower() in known:
            letters += 1
            if letter != letter.lower() and before.isalpha() and before == before.lower():
                foreign += 1  # a capital after a small letter
        elif letter not in PUNCTUATION or not _may_stand(before, letter, after):
            foreign += 1
    return foreign <= 0.02 * (letters + foreign)


def _may_stand(before: str, mark: str, after: str) -> bool:
    if before.isalpha():
        return mark in (INSIDE_WORDS if after.isalpha() else AFTER_LETTERS)
    return True


def _neighbors(text: str) -> list[tuple[str, str, str]]:
    return list(zip(" " + text, text, text[1:] + " ", strict=False))


def words_with_accents(text: str) -> str:
    """Return the words of `text` that hold a character beyond ASCII."""
    return " ".join(word for word in re.findall(r"\w+", text) if not word.isascii())


def common_fraction(text: str, language: str) -> float:
    """Return the fraction of the characters of `text` beyond ASCII that are common in a language, 0 to 1.

    It is 0 if they stand alone between other letters, as misread accents do.

    Args:
        language: `zh` (simplified), `zh-hant`, `ja` or `ko`.
    """
    runs = re.findall(r"[^\x00-\x7f]+", text)
    characters = "".join(runs)
    alone = sum(len(run) == 1 for run in runs)
    if not characters or alone > 0.4 * len(characters):
        return 0.0
    good = sum(_is_common(character, language) for character in characters)
    if language == "ja":
        kana = sum("\u3041" <= character <= "\u30ff" for character in characters)
        return good / len(characters) if kana >= 0.15 * len(characters) else 0.0
    return good / len(characters)


@cache
def _is_common(character: str, language: str) -> bool:
    if unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] in "PN":
        return True  # full-width punctuation and digits
    codec, first, last = {
        "zh": ("gb2312", 0xB0, 0xD7),
        "zh-hant": ("big5", 0xA4, 0xC6),
        "ja": ("shift_jis", 0x81, 0x98),
        "ko": ("euc_kr", 0xB0, 0xC8),
    }[language]
    try:
        code = character.encode(codec)
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and (first <= code[0] <= last or code[0] in (0xA1, 0xA3))
