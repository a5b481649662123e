"""LaTeX of a card to MathML, which browsers draw without a font or a script."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

from lossatlas.errors import UserError

ELEMENTS = frozenset(
    """math mrow mi mo mn mtext mspace msup msub msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd mstyle
    mpadded mphantom menclose mfenced mmultiscripts mprescripts none""".split()  # noqa: SIM905
)


def mathml(tex: str) -> Markup | str:
    """MathML of a formula, or its LaTeX as text where it cannot be turned into MathML.

    Raises:
        UserError: latex2mathml is not installed.

    Example:
        >>> "<mi>" in str(mathml("x"))
        True
    """
    try:
        from latex2mathml.converter import convert
    except ImportError:
        raise UserError("equations need latex2mathml: pip install 'lossatlas[report]'") from None
    try:
        text = convert(tex, display="block")
        ElementTree.fromstring(text)  # text that came through as markup would not be one element of MathML
    except Exception:  # a formula with a fault is shown as it stands; a page must not be lost for it
        return tex
    return Markup(text) if _only_mathml(text) else tex


def _only_mathml(text: str) -> bool:
    """Whether there are elements of MathML only and no attribute that loads or runs anything, whatever a card says."""
    for node in ElementTree.fromstring(text).iter():
        space, _, name = node.tag.rpartition("}")
        if space not in ("", "{http://www.w3.org/1998/Math/MathML") or name not in ELEMENTS:
            return False
        if any(key.lower().startswith("on") or key.lower().endswith(("href", "src")) for key in node.attrib):
            return False
    return True
