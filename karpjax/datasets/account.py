"""The account of an import: what was chosen, and what was left out, in one line."""
import dataclasses

from karpjax.core.errors import UserError

NAMED = 5  # of the things left out, by name


@dataclasses.dataclass
class Account:
    """Choices and losses of an import.

    choices   facts that a user may want to know; never errors
    losses    sentences about what was dropped, converted or assumed: errors with --strict
    left_out  {kind of thing: names}, losses that are counted
    """
    choices: list[str] = dataclasses.field(default_factory=list)
    losses: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def leave_out(self, kind: str, *names) -> None:
        """Count things of a kind, as "files that are no pictures are left out"."""
        if names:
            self.left_out.setdefault(kind, []).extend(map(str, names))

    def all_losses(self) -> list[str]:
        """Return every loss, counted ones with the first names."""
        return [*self.losses, *(counted(kind, names) for kind, names in self.left_out.items())]

    def report(self, source, rows: dict[str, int], strict: bool = False) -> None:
        """Print the line, or raise a UserError of the losses if `strict`."""
        losses = self.all_losses()
        if strict and losses:
            raise UserError(f"--strict: {source}: {'; '.join(losses)}; expected an import without "
                            "losses: correct the files, or leave out --strict")
        counts = ", ".join(f"{count} {split}" for split, count in rows.items())
        print("; ".join([f"{source}: {counts}", *self.choices, *losses]), flush=True)


def counted(kind: str, names: list[str]) -> str:
    """Return "3 KIND: NAME, NAME, NAME", of many names the first."""
    distinct = list(dict.fromkeys(names))
    more = ", ..." * (len(distinct) > NAMED)
    return f"{len(names)} {kind}: {', '.join(distinct[:NAMED])}{more}"
