"""What every loss says to every mistake, in one file to be read as a user reads it."""

import difflib
from pathlib import Path

import jloss
from jloss._promises import mistakes, refusal

GOLDEN = Path(__file__).with_name("error_messages.txt")


def messages() -> str:
    """All mistakes of all losses with the answers."""
    blocks = []
    for card in jloss.CARDS.values():
        lines = [f"# {card.name}"]
        for what, _, wrong_call in mistakes(card):
            error = refusal(wrong_call)
            lines += [f"{what}:", f"    {type(error).__name__}: {str(error).splitlines()[0]}"]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def test_error_messages_are_those_that_were_read_and_found_clear():
    """After a change of wording, run this file as a script, and read the difference."""
    old, new = GOLDEN.read_text().splitlines(), messages().splitlines()
    changes = "\n".join(difflib.unified_diff(old, new, "committed", "now", lineterm="", n=2))
    assert not changes, f"\n{changes}"


if __name__ == "__main__":
    GOLDEN.write_text(messages())
