"""Write the pages of the reference that are made from the code."""

from tests.reference import write_pages

write_pages()
