"""Thai, which writes no spaces between words: sentences whose words are known."""

from __future__ import annotations

import numpy as np

PARTS = (
    ("ผม", "เรา", "เขา", "แม่", "ครู", "นักเรียน", "หมอ", "เพื่อน", "ตำรวจ", "เด็ก"),
    ("กิน", "อ่าน", "เขียน", "ซื้อ", "ชอบ", "เห็น", "ขาย", "ทำ", "หา", "ถือ"),
    ("ข้าว", "หนังสือ", "จดหมาย", "ผลไม้", "บ้าน", "รถยนต์", "กาแฟ", "ดอกไม้", "ปลา", "เสื้อ"),
    ("ที่", "ใน", "ใกล้", "หน้า"),
    ("ตลาด", "โรงเรียน", "โรงพยาบาล", "กรุงเทพ", "ร้าน", "เมือง", "วัด", "สถานี"),
    ("ทุก", "เมื่อ", "ตอน"),
    ("วัน", "เช้า", "เย็น", "คืน"),
)


def sentences(seed: int, count: int) -> list[list[str]]:
    """Return sentences as lists of words."""
    random = np.random.default_rng(seed)
    return [[str(random.choice(words)) for words in PARTS] for _ in range(count)]


def starts(words: list[str]) -> list[bool]:
    """Return for each character whether a word begins there."""
    return [place == 0 for word in words for place in range(len(word))]


def correct(answers: list[list[bool]], truth: list[list[str]]) -> list[bool]:
    """Tell about which characters answers are right."""
    pairs = zip(answers, map(starts, truth), strict=True)
    return [one == other for found, wanted in pairs for one, other in zip(found, wanted, strict=True)]
