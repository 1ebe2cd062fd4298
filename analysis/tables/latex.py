"""Any text as LaTeX prints it."""

import re

_MATHEMATICS = {
    **{"±": r"\pm", "−": "-", "×": r"\times", "·": r"\cdot", "→": r"\to"},
    **{"≤": r"\le", "≥": r"\ge", "≈": r"\approx", "≠": r"\ne"},
    **{"α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "λ": r"\lambda", "ω": r"\omega"},
    **{"ε": r"\varepsilon", "σ": r"\sigma", "μ": r"\mu", "θ": r"\theta"},
}
_ESCAPED = {
    **{char: "\\" + char for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    **{char: f"${command}$" for char, command in _MATHEMATICS.items()},
}


def latex_text(text: str) -> str:
    """Any text as LaTeX prints it: special characters escaped, Greek letters and signs in
    mathematics. It may follow the end of a row, which takes a bracket or a star for its own.
    """
    if text.lstrip()[:1] in ("[", "*"):
        start = len(text) - len(text.lstrip())
        return f"{text[:start]}{{{text[start]}}}{latex_text(text[start + 1 :])}"
    pieces = re.findall(r".\u0303?", text, flags=re.DOTALL)
    return "".join(
        _tilde(piece[0])
        if piece.endswith("\u0303") and len(piece) > 1
        else _ESCAPED.get(piece, piece)
        for piece in pieces
    )


def _tilde(char: str) -> str:
    return rf"$\tilde{{{_ESCAPED.get(char, char).strip('$')}}}$"
