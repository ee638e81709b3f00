"""The README: its code runs, and its table of losses is what the cards say.

``python tests/test_readme.py`` writes the table anew.
"""

import re
from pathlib import Path

from jloss import CARDS, Card

README = Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"(<!-- catalogue: .*? -->\n)(.*?)(<!-- end of catalogue -->)", re.DOTALL)
PEERS = ("optax", "torch", "keras", "sklearn", "rax")


def catalogue() -> str:
    """The table of all cards, a line each, by family."""
    lines = ["| loss | a value for each | properties | elsewhere |", "|---|---|---|---|"]
    for card in sorted(CARDS.values(), key=lambda card: (card.family, card.name)):
        peers = ", ".join(peer for peer in PEERS if peer in card.also)
        lines.append(f"| `{card.name}` | {card.values} | {properties(card)} | {peers} |")
    return "\n".join(lines) + "\n"


def properties(card: Card) -> str:
    """What a card claims, in words."""
    claims = [
        card.convex and "convex",
        card.kinks is False and "differentiable",
        callable(card.kinks) and "with kinks",
        card.symmetric and "symmetric",
        card.lipschitz and f"Lipschitz {card.constant('lipschitz'):.3g}",
        card.smooth and f"smooth {card.constant('smooth'):.3g}",
        card.maximum is not None and f"at most {card.maximum:g}",
        card.elicits and f"elicits the {card.elicits}",
    ]
    return ", ".join(claim for claim in claims if claim)


def test_the_table_of_losses_is_what_the_cards_say():
    match = TABLE.search(README.read_text())
    assert match and match[2] == catalogue(), "stale: run `python tests/test_readme.py`"


def test_every_python_block_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, {})
    assert blocks and capsys.readouterr().out


if __name__ == "__main__":
    README.write_text(
        TABLE.sub(lambda match: match[1] + catalogue() + match[3], README.read_text())
    )
