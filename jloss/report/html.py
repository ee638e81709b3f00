"""What every page is made of: the frame, sections, pictures with captions, words as HTML."""

import html
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jloss.card import CARDS


def save(text: str, path: Path) -> None:
    """Writes a page whole or not at all."""
    # Beside its final place, so that it can be renamed into it.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        draft = Path(file.name)
        try:
            file.write(text)
            file.close()
            draft.chmod(0o644)  # a temporary file is its owner's alone
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def document(title: str, body: Iterable[str]) -> str:
    """A page of one file that needs nothing else."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · jloss</title>
<style>
{style}</style>
</head>
<body>
{"".join(body)}</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """A heading and what follows; parts that are no HTML are words."""
    blocks = (part if part.lstrip().startswith("<") else paragraphs(part) for part in parts)
    return f"<section>\n<h2>{title}</h2>\n{''.join(blocks)}</section>\n"


def paragraphs(words: str) -> str:
    """Words as paragraphs, which an empty line divides."""
    return "".join(f"<p>{text(' '.join(part.split()))}</p>\n" for part in words.split("\n\n"))


def text(words: str) -> str:
    """Plain words as HTML, with the names of losses set as code."""
    names = "|".join(sorted(CARDS, key=len, reverse=True))
    words = html.escape(words).replace(" %", "&nbsp;%").replace(" ± ", "&nbsp;±&nbsp;")
    return re.sub(rf"\b({names})\b", _code, words)


def _code(found: re.Match[str]) -> str:
    """A loss's name, which may be broken behind an underscore."""
    return f"<code>{found[1].replace('_', '_<wbr>')}</code>"


def picture(svg: str, alt: str) -> str:
    """A drawing, and what it shows in words."""
    return f'<div role="img" aria-label="{html.escape(alt)}">{svg}</div>'


def figure(caption: str, *pictures: str, heading: str = "") -> str:
    """Pictures with a caption beneath them."""
    head = f"<h3>{text(heading)}</h3>\n" if heading else ""
    drawn = "\n".join(pictures)
    if len(pictures) > 1:
        drawn = f'<div class="pictures">\n{drawn}\n</div>'
    return f"<figure>\n{head}{drawn}\n<figcaption>{text(caption)}</figcaption>\n</figure>\n"
