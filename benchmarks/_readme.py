"""The blocks of the README that show what was measured."""

from pathlib import Path


def put(readme: Path, name: str, text: str) -> None:
    """Replaces what is between the marks of that name.

    Raises:
      ValueError: If the marks are not there, once each.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    whole = readme.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(
            f"{readme.name} must have {begin.strip()!r} and {end!r} once each: put both "
            "where the table is to be."
        )
    head, _, rest = whole.partition(begin)
    tail = rest.partition(end)[2]
    readme.write_text(f"{head}{begin}{text.strip()}\n{end}{tail}")
