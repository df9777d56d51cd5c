"""The encoding from before Unicode that a text is in, by the language that its bytes spell.

Every encoding is tried; it fits if its text consists of the characters, letters or words of a language that it was
made for. py3langid detects the language of Latin text. charset-normalizer 3.5 was tried on tables of one to eight lines
in 25 languages: it named a wrong encoding for two in five of them, and for 20 of 77 tables of eight lines.
"""

from __future__ import annotations

import re

from finetune.core.tables.letters import ACCENTED, common_fraction, is_spelled_as, likelihood, words_with_accents

_WESTERN = (
    *("en", "de", "nl", "af", "fr", "ca", "oc", "lb", "br", "es", "gl", "eu", "an", "pt", "it"),
    *("sv", "fi", "et", "da", "no", "nb", "nn", "se", "is", "fo", "ga", "sq"),
)
_CENTRAL = ("cs", "sk", "pl", "hu", "ro", "hr", "bs", "sr", "sl", "sq", "de")
_CYRILLIC = ("ru", "uk", "be", "bg", "sr", "mk")
EAST_ASIAN = {"gb18030": "zh", "big5hkscs": "zh-hant", "cp932": "ja", "euc_jp": "ja", "cp949": "ko"}
ALPHABETS = {
    **dict.fromkeys(("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866"), _CYRILLIC),
    "cp1253": ("el",),
    "iso8859_7": ("el",),
    "cp1255": ("he",),
    "cp1256": ("ar",),
    "iso8859_6": ("ar",),
    "cp874": ("th",),
    "mac_cyrillic": _CYRILLIC,
}
LATIN = {
    "cp1252": _WESTERN,
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": ("tr", "az"),
    "cp1257": ("lt", "lv"),
    "iso8859_15": _WESTERN,
    "cp850": _WESTERN,
    "mac_roman": _WESTERN,
    "cp852": _CENTRAL,
}
"""Encodings of one byte a letter, the most common first -> the languages that they were made for."""

DATED, DATED_ACCENTS = ("cp850", "cp852", "mac_roman"), 6
"""Encodings of computers before 2000, accepted only for a text with at least this many accents."""

COMMON_FRACTION, FRACTION_MARGIN, KOREAN_FRACTION = 0.85, 0.1, 0.95
MIN_ACCENTS = 3
"""Accents from which on an encoding other than Windows-1252 is accepted."""

LINES_TRIED, LINES_NEEDED, LINES_FRACTION, LINES_MARGIN = 60, 5, 0.7, 0.2

HANGUL_NEEDED = 16
"""Distinct hangul from which on a text is Korean, even if it would be Chinese in another encoding."""

LIKELY, NATS, RARE_NATS = -3.85, 5.0, 8.0
"""Mean log probability of letters in the right language; the sum by which the best encoding must lead; the sum that is
subtracted for an encoding of old computers."""


def guess(sample: bytes) -> tuple[str | None, list[str]]:
    """Return the encoding of a text's lines, None if it is not certain, and the candidates."""
    by_fraction = _east_asian(sample)
    by_letters = _alphabetic(sample)
    spelled = _latin(sample)
    certain: list[str] = []
    if by_fraction and by_fraction[0][0] >= COMMON_FRACTION:
        fractions = {codec: fraction for fraction, codec in by_fraction}
        kana = [codec for codec in ("cp932", "euc_jp") if fractions.get(codec, 0.0) >= COMMON_FRACTION]
        near = [codec for fraction, codec in by_fraction if fraction >= by_fraction[0][0] - FRACTION_MARGIN]
        # the bytes of kana and of hangul are those of common Chinese characters elsewhere, and not the other way round
        hangul = len({letter for letter in _decoded(sample, "cp949") or "" if "가" <= letter <= "힣"})
        is_korean = fractions.get("cp949", 0.0) >= KOREAN_FRACTION and hangul >= HANGUL_NEEDED
        certain += kana or (["cp949"] if is_korean else near)
    own = _own_words(sample)
    if by_letters and by_letters[0][0] >= LIKELY and own >= 0.7:
        count = _count(_words(sample))
        certain += [codec for mean, codec in by_letters if (by_letters[0][0] - mean) * count < NATS]
    if own <= 0.5:
        certain += spelled
    certain = _different(sample, certain)
    rest = [codec for _, codec in by_fraction[:1] if by_fraction[0][0] > 0.5]
    rest += [codec for mean, codec in by_letters[:2] if mean > LIKELY - 0.5 and own > 0.5]
    if own <= 0.5:
        rest += [*(spelled or _latin(sample, lenient=True)), *(["cp1252"] if _decoded(sample, "cp1252") else [])]
    return (certain[0] if len(certain) == 1 else None), _different(sample, [*certain, *rest])


def _decoded(sample: bytes, codec: str) -> str | None:
    try:
        return sample.decode(codec)
    except UnicodeDecodeError:
        return None


def _different(sample: bytes, codecs_: list[str]) -> list[str]:
    """Return the encodings without those that give the same text as an earlier one."""
    by_text: dict[str | None, str] = {}
    for codec in codecs_:
        by_text.setdefault(_decoded(sample, codec), codec)
    return list(by_text.values())


def _words(sample: bytes) -> list[bytes]:
    """Return the distinct words with bytes beyond ASCII: a label repeated a thousand times is no more evidence."""
    return sorted(set(re.findall(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*", sample)))


def _count(words: list[bytes]) -> int:
    return sum(byte >= 0x80 for word in words for byte in word)


def _own_words(sample: bytes) -> float:
    """Return the fraction of bytes beyond ASCII that stand in words without any ASCII letter."""
    words = _words(sample)
    count = sum(len(word) for word in words if len(word) > 1 and not re.search(rb"[A-Za-z]", word))
    return count / max(1, _count(words))


def _east_asian(sample: bytes) -> list[tuple[float, str]]:
    texts = {codec: _decoded(sample, codec) for codec in EAST_ASIAN}
    fractions = [(common_fraction(text, EAST_ASIAN[codec]), codec) for codec, text in texts.items() if text is not None]
    return sorted(fractions, key=lambda entry: -entry[0])


def _alphabetic(sample: bytes) -> list[tuple[float, str]]:
    words = _words(sample)
    sample, count = b" ".join(words), _count(words)
    likelihoods = []
    for codec, languages in ALPHABETS.items():
        text = _decoded(sample, codec)
        if text is not None:
            handicap = RARE_NATS / count if codec in ("mac_cyrillic", "cp866") else 0.0
            mean = max(likelihood(text, language)[0] for language in languages)
            likelihoods.append((mean - handicap, codec))
    return sorted(likelihoods, key=lambda entry: -entry[0])


def _latin(sample: bytes, *, lenient: bool = False) -> list[str]:
    """Return the encodings whose text is spelled in the language that it seems to be in.

    The text is judged as a whole; if no encoding fits, by its words with accents; if none fits, line by line.

    Args:
        lenient: return encodings with little evidence, too.
    """
    texts = {codec: text for codec in LATIN if (text := _decoded(sample, codec)) is not None}
    for part_of in (str, words_with_accents):
        fitting: list[str] = []
        for codec, text in texts.items():
            least = 1 if codec == "cp1252" and part_of is str else MIN_ACCENTS
            if codec in DATED and not lenient:
                if fitting or part_of is words_with_accents:
                    continue
                least = DATED_ACCENTS
            accents = sum(not letter.isascii() for word in set(text.split()) for letter in word)
            if (lenient or accents >= least) and _seems(part_of(text), text, LATIN[codec]):
                fitting.append(codec)
        if fitting:
            return fitting
    return _latin_by_line({codec: text for codec, text in texts.items() if codec not in DATED})


def _seems(part: str, text: str, languages: tuple[str, ...]) -> bool:
    """Return whether the language of `part` is one of these, and `text` is spelled as it is."""
    import py3langid

    language = str(py3langid.classify(part)[0]) if part else ""
    return language in languages and language in ACCENTED and is_spelled_as(text, language)


def _latin_by_line(texts: dict[str, str]) -> list[str]:
    """Return the encodings in which most lines are spelled as some language, for a table of several languages."""
    fractions = {}
    for codec, text in texts.items():
        lines = text.split("\n")[:LINES_TRIED]
        if len(lines) >= LINES_NEEDED:
            fractions[codec] = sum(_seems(line, line, LATIN[codec]) for line in lines) / len(lines)
    best = max(fractions.values(), default=0.0)
    if best < LINES_FRACTION:
        return []
    return [codec for codec, fraction in fractions.items() if fraction > best - LINES_MARGIN]
