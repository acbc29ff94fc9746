"""What a shell completes as the value of an option or argument: shipped names, folders and files.

It is chosen by the placeholder that the help shows for the value. Choices, such as those of `--format`, are
completed by click.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem, FishComplete, add_completion_class

from wsi_mitosis.io.shipped import Kind, names

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

SHIPPED: dict[str, tuple[Kind, str]] = {
    "BUNDLE": ("models", "dir"),
    "PIPELINE.toml": ("pipelines", "file"),
    "RECIPE.toml": ("train", "file"),
}
"""Placeholders of values that may be the name of shipped data, their kinds, and what else they may be."""
PLACES = {
    "DIR": "dir",
    "STORE.zarr": "dir",
    "PATH": "file",
    "PATH|hub": "file",
    "SLIDE...": "file",
    "FILE": "file",
    "CSV": "file",
}
"""Placeholders of other paths, and the word by which click asks a shell for paths
(https://click.palletsprojects.com/en/stable/shell-completion/)."""

FISH = r"""function %(complete_func)s
    set --local --export %(complete_var)s fish_complete
    set --local --export COMP_WORDS (commandline --cut-at-cursor --current-process)
    set --local --export COMP_CWORD (commandline --current-token)
    for answer in (%(prog_name)s)
        set --local part (string split \t $answer)
        switch $part[1]
            case dir
                __fish_complete_directories $part[2]
            case file
                __fish_complete_path $part[2]
            case plain
                echo $part[2]\t$part[3]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class Fish(FishComplete):
    """Completion for fish, one line per answer.

    The script of click 8.4.1 reads an answer as several lines of one element. But fish makes an element of
    each line (https://fishshell.com/docs/current/language.html#command-substitution), and reports errors.
    """

    source_template = FISH

    def format_completion(self, item: CompletionItem) -> str:
        """Return type, value and help on one line, separated by tabs."""
        return "\t".join(" ".join(str(part).split()) for part in (item.type, item.value, item.help or ""))


def completer(metavar: str) -> Completer | None:
    """Return what completes a value, for click's `shell_complete`; None if nothing is known of it.

    Args:
        metavar: The value's placeholder in the help.
    """
    kind, place = SHIPPED.get(metavar, (None, PLACES.get(metavar)))
    if place is None:
        return None

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        paths = CompletionItem(incomplete, type=place)
        known = names(kind) if kind else []
        # bash forgets what comes before a request for paths, so that this is the first
        return [paths, *(CompletionItem(name) for name in known if name.startswith(incomplete))]

    return complete
