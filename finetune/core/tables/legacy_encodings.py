"""Which encoding from before Unicode a text is in, by the language that its bytes spell.

Each encoding is tried; one is taken whose text is made of the characters, letters or words of a language that it is
for. py3langid names the language of Latin text. charset-normalizer 3.5 was tried on tables of one to eight lines in 25
languages: it named a wrong encoding for two in five of them, and for 20 of 77 tables of eight lines.
"""

from __future__ import annotations

import re

from finetune.core.tables.letters import ACCENTED, common_share, is_spelled_as, likelihood, words_with_accents

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
"""Encodings of one byte a letter, those of every day first, and the languages that they are for."""

DATED, DATED_ACCENTS = ("cp850", "cp852", "mac_roman"), 6
"""Encodings of computers before 2000, which are taken for none but a text with so many accents."""

COMMON_SHARE, SHARE_MARGIN, KOREAN_SHARE = 0.85, 0.1, 0.95
MOST_DOUBTFUL_ACCENTS = 3
"""Accents from which an encoding other than Windows-1252 is taken."""

LINES_TRIED, LINES_NEEDED, LINES_SHARE, LINES_MARGIN = 60, 5, 0.7, 0.2

HANGUL_NEEDED = 16
"""Different hangul from which a text is Korean though it would be Chinese in another encoding."""

LIKELY, NATS, RARE_NATS = -3.85, 5.0, 8.0
"""Mean log probability of letters in a language that is the right one; by how much, in sum, the best must lead; what
an encoding of old computers must make up for."""


def guess(sample: bytes) -> tuple[str | None, list[str]]:
    """The encoding of a text's lines, and those that it may be; None where it is not certain."""
    by_share = _east_asian(sample)
    by_letters = _alphabetic(sample)
    spelled = _latin(sample)
    certain: list[str] = []
    if by_share and by_share[0][0] >= COMMON_SHARE:
        shares = {codec: share for share, codec in by_share}
        kana = [codec for codec in ("cp932", "euc_jp") if shares.get(codec, 0.0) >= COMMON_SHARE]
        near = [codec for share, codec in by_share if share >= by_share[0][0] - SHARE_MARGIN]
        # the bytes of kana and of hangul are those of common Chinese characters elsewhere, and not the other way round
        hangul = len({letter for letter in _decoded(sample, "cp949") or "" if "가" <= letter <= "힣"})
        is_korean = shares.get("cp949", 0.0) >= KOREAN_SHARE and hangul >= HANGUL_NEEDED
        certain += kana or (["cp949"] if is_korean else near)
    own = _own_words(sample)
    if by_letters and by_letters[0][0] >= LIKELY and own >= 0.7:
        count = _count(_words(sample))
        certain += [codec for mean, codec in by_letters if (by_letters[0][0] - mean) * count < NATS]
    if own <= 0.5:
        certain += spelled
    certain = _different(sample, certain)
    rest = [codec for _, codec in by_share[:1] if by_share[0][0] > 0.5]
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
    """Without encodings that give the same text as one before them."""
    found: dict[str | None, str] = {}
    for codec in codecs_:
        found.setdefault(_decoded(sample, codec), codec)
    return list(found.values())


def _words(sample: bytes) -> list[bytes]:
    """The words with bytes beyond ASCII, each once: a label that is repeated a thousand times is no more evidence."""
    return sorted(set(re.findall(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*", sample)))


def _count(words: list[bytes]) -> int:
    return sum(byte >= 0x80 for word in words for byte in word)


def _own_words(sample: bytes) -> float:
    """The share of bytes beyond ASCII that stand in words without any ASCII letter."""
    words = _words(sample)
    own = sum(len(word) for word in words if len(word) > 1 and not re.search(rb"[A-Za-z]", word))
    return own / max(1, _count(words))


def _east_asian(sample: bytes) -> list[tuple[float, str]]:
    texts = {codec: _decoded(sample, codec) for codec in EAST_ASIAN}
    shares = [(common_share(text, EAST_ASIAN[codec]), codec) for codec, text in texts.items() if text is not None]
    return sorted(shares, key=lambda entry: -entry[0])


def _alphabetic(sample: bytes) -> list[tuple[float, str]]:
    words = _words(sample)
    sample, count = b" ".join(words), _count(words)
    found = []
    for codec, languages in ALPHABETS.items():
        text = _decoded(sample, codec)
        if text is not None:
            handicap = RARE_NATS / count if codec in ("mac_cyrillic", "cp866") else 0.0
            found.append((max(likelihood(text, language)[0] for language in languages) - handicap, codec))
    return sorted(found, key=lambda entry: -entry[0])


def _latin(sample: bytes, *, lenient: bool = False) -> list[str]:
    """The encodings whose text is spelled as the language is that it seems to be in: as a whole; where that says
    nothing, in its words with accents; and where that says nothing, line by line. With `lenient`, those too for which
    there is little evidence."""
    texts = {codec: text for codec in LATIN if (text := _decoded(sample, codec)) is not None}
    for part_of in (str, words_with_accents):
        found: list[str] = []
        for codec, text in texts.items():
            least = 1 if codec == "cp1252" and part_of is str else MOST_DOUBTFUL_ACCENTS
            if codec in DATED and not lenient:
                if found or part_of is words_with_accents:
                    continue
                least = DATED_ACCENTS
            accents = sum(not letter.isascii() for word in set(text.split()) for letter in word)
            if (lenient or accents >= least) and _seems(part_of(text), text, LATIN[codec]):
                found.append(codec)
        if found:
            return found
    return _latin_by_line({codec: text for codec, text in texts.items() if codec not in DATED})


def _seems(part: str, text: str, languages: tuple[str, ...]) -> bool:
    """Whether `text` is spelled as the language of `part` is, and that is one of these."""
    import py3langid

    language = str(py3langid.classify(part)[0]) if part else ""
    return language in languages and language in ACCENTED and is_spelled_as(text, language)


def _latin_by_line(texts: dict[str, str]) -> list[str]:
    """The encoding in which most lines are spelled as some language is, for a table of several languages."""
    shares = {}
    for codec, text in texts.items():
        lines = text.split("\n")[:LINES_TRIED]
        if len(lines) >= LINES_NEEDED:
            shares[codec] = sum(_seems(line, line, LATIN[codec]) for line in lines) / len(lines)
    best = max(shares.values(), default=0.0)
    if best < LINES_SHARE:
        return []
    return [codec for codec, share in shares.items() if share > best - LINES_MARGIN]
