"""Messages of errors: one line, whatever the names in them hold."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.errors import SlideError, listed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.svs", r"a\nb.svs"),
        ("a\r\n\tb.svs", r"a\r\n\tb.svs"),
        ("\x1b[2Ja.svs", r"\x1b[2Ja.svs"),
        ("a\u2028b\x85c.svs", r"a\u2028b\x85c.svs"),
        ("Präparat ł 切片 é.svs", "Präparat ł 切片 é.svs"),
        (r"C:\slides\new.svs", r"C:\slides\new.svs"),
    ],
)
def test_a_name_never_breaks_the_line_of_a_message(name: str, shown: str) -> None:
    error = SlideError(f"not like {listed([name])}", subject=name, stage="opening", remedy=f"Rename {name}")
    assert str(error) == f"{shown}: opening: not like '{shown}'. Rename {shown}"
    assert error.subject == name


@given(st.text(), st.text(), st.text())
def test_a_message_is_one_line_and_crosses_a_process_border_whole(
    subject: str, cause: str, remedy: str
) -> None:
    error = SlideError(cause, subject=subject, remedy=remedy)
    assert len(str(error).splitlines()) <= 1
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), copy.subject, copy.cause, copy.remedy) == (str(error), subject, cause, remedy)
