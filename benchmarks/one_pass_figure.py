"""Draw docs/pictures/one_pass.png: the tokens of a text with five labels, in pairs and in one pass.

The counts follow the formulas in the docstring of service/inference/backends/one_pass.py.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

TEXT, LABELS = 14, ("about sports", "about business", "about science", "about politics", "about food")
HYPOTHESIS = 4
BLUE, ORANGE, GRAY = "#4c78a8", "#f58518", "#8d8d8d"


def bar(axes: plt.Axes, left: float, row: float, width: float, color: str, words: str = "") -> None:
    """Draw a span of tokens."""
    axes.barh(row, width - 0.12, left=left, height=0.62, color=color, align="center")
    axes.text(left + width / 2, row, words, ha="center", va="center", color="white", fontsize=8)


def main() -> None:
    """Draw both methods side by side."""
    figure, (pairs, once) = plt.subplots(1, 2, figsize=(11, 2.9), sharey=True)
    for row, label in enumerate(LABELS):
        bar(pairs, 0, row, 1, GRAY)
        bar(pairs, 1, row, TEXT, BLUE, "the text")
        bar(pairs, 1 + TEXT, row, HYPOTHESIS, ORANGE, label)
        bar(once, TEXT + 4, row, 1, GRAY)
        bar(once, TEXT + 5, row, HYPOTHESIS, ORANGE, label)
        once.annotate(
            "", xy=(TEXT + 0.2, 2), xytext=(TEXT + 3.9, row), arrowprops={"arrowstyle": "->", "color": GRAY, "lw": 0.9}
        )
    bar(once, 0, 2, TEXT, BLUE, "the text, once")
    count = len(LABELS)
    pairs.set_title(f"in pairs: {count * (1 + TEXT + HYPOTHESIS)} tokens", fontsize=10)
    once.set_title(f"in one pass: {TEXT + count * (1 + HYPOTHESIS)} tokens", fontsize=10)
    once.text(TEXT / 2, 2.75, "each label's tokens attend to it", ha="center", fontsize=8, color=GRAY)
    for axes in (pairs, once):
        axes.set_xlim(-0.3, TEXT + 5 + HYPOTHESIS + 0.3)
        axes.axis("off")
    pairs.invert_yaxis()  # the other axes share the y axis
    figure.tight_layout()
    out = Path(__file__).parents[1] / "docs/pictures/one_pass.png"
    figure.savefig(out, dpi=110, metadata={"Software": None})
    print(out)


if __name__ == "__main__":
    main()
