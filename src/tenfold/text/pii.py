"""Personal data in running text: e-mail addresses, phone numbers, IPv4 addresses and payment cards.

Which digits are a phone number depends on the numbering plan of each country; the package phonenumbers (Google's
libphonenumber) keeps them up to date.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

# Every pattern takes time linear in the text: runs are bounded or possessive (`++`), so none is read twice.
_EMAIL = re.compile(r"(?<!\w)\w[\w.+%'-]{0,63}+@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}(?!\w)")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![\w.]){_OCTET}(?:\.{_OCTET}){{3}}(?!\w|\.[0-9])")
_GROUP = r"[0-9]++(?!\w|\.[0-9])"
_DIGIT_GROUPS = re.compile(rf"(?<!\w)(?<![0-9]\.){_GROUP}(?:[ -]{_GROUP})*+")
_CARD_START = re.compile(r"2[2-7]|[3-6]")  # what payment networks issue; years, times and ISBNs start otherwise
# Written like a phone number but in an area code that is not given out, as in films and examples.
_NORTH_AMERICAN = re.compile(
    r"(?:(?<![\w.-])(?:\+?1[ .-]?)?|(?=\())(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[0-9]{3}[ .-][0-9]{4}(?!\w|[.-][0-9])"
)
_CUED = re.compile(
    r"\b((?:call|cell|fax|mobile|phone|sms|tel|telephone|whatsapp)(?: ?no| number)?[\s.:#-]{0,4})"
    r"\+?\(?[0-9](?:[ ().-]{0,2}[0-9]){6,14}(?!\w|[.,-][0-9])",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"[.,][0-9]")
_SEVEN_DIGITS = re.compile(r"\d(?:[\s().\-/\u2010-\u2015]{0,3}\d){6}")


class Pii(NamedTuple):
    """What `pii_filter` found.

    Args:
        text: the text with masks; None where it is to be dropped.
        counts: how often each kind was found: "email", "phone", "ip", "card".
    """

    text: str | None
    counts: dict[str, int]


def pii_filter(text: str, mode: Literal["mask", "drop"] = "mask", *, region: str = "US") -> Pii:
    """Find personal data, and mask it or drop the document.

    Cards have 13 to 19 digits, a network's first digits and a valid check digit (Luhn). A phone number without any
    separator, or of another country without its code, counts only after a word such as "call". Masks are [EMAIL],
    [CARD], [IP] and [PHONE].

    Args:
        text: a document.
        mode: "mask" replaces each find; "drop" gives no text where there is any.
        region: country (ISO 3166, two letters) of phone numbers that name none.
    Raises:
        ValueError: unknown mode or region.
    """
    if mode not in ("mask", "drop"):
        raise ValueError(f"mode: got {mode!r}, need 'mask' or 'drop'")
    counts = {}
    text, counts["email"] = _EMAIL.subn("[EMAIL]", text)
    text, counts["card"] = _mask_cards(text)
    text, counts["ip"] = _IPV4.subn("[IP]", text)
    text, counts["phone"] = _mask_phones(text, region)
    return Pii(None if mode == "drop" and any(counts.values()) else text, counts)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _mask_cards(text: str) -> tuple[str, int]:
    found = 0

    def masked(match: re.Match[str]) -> str:
        nonlocal found
        # Groups at even places, the separators behind them at odd ones.
        parts = re.split("([ -])", match[0])
        at = 0
        while at < len(parts):
            if (size := _card_parts(parts[at : at + 9 : 2])) > 0:
                parts[at : at + 2 * size - 1] = ["[CARD]"]
                found += 1
            at += 2
        return "".join(parts)

    return _DIGIT_GROUPS.sub(masked, text), found


def _card_parts(groups: list[str]) -> int:
    """How many of the groups, from the first, write a card number; 0 for none."""
    for size in range(1, len(groups) + 1):
        digits = "".join(groups[:size])
        if len(digits) > 19 or (size > 1 and not 4 <= len(groups[size - 2]) <= 6):
            break
        if len(digits) >= 13 and _CARD_START.match(digits) and luhn(digits):
            return size
    return 0


def _mask_phones(text: str, region: str) -> tuple[str, int]:
    from phonenumbers import SUPPORTED_REGIONS, Leniency, PhoneNumberMatcher  # slow to import

    if region not in SUPPORTED_REGIONS:
        raise ValueError(f"region: got {region!r}, need a country code such as 'US'")
    if not _SEVEN_DIGITS.search(text):  # the matcher below is slow on short numbers
        return text, 0
    text, american = _NORTH_AMERICAN.subn("[PHONE]", text)
    # Strict grouping, else subtractions and part numbers count; bare digits are mostly no phone: 2147483647.
    parts, at = [], 0
    for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING, max_tries=len(text)):
        if not match.raw_string.isdigit() and not _FRACTION.match(text, match.end):
            parts += [text[at : match.start], "[PHONE]"]
            at = match.end
    text, cued = _CUED.subn(r"\1[PHONE]", "".join([*parts, text[at:]]))
    return text, len(parts) // 2 + american + cued
