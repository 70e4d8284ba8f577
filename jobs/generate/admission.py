"""Why a request cannot be served by a model, in the same words whichever engine is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobs.generate.protocol import Request, Sample


def total(request: Request) -> int:
    """Positions that a request may take."""
    return len(request.ids) + request.sampling.max_new_tokens


def unfit(request: Request, vocabulary: int, positions: int | None) -> str | None:
    """Why the prompt does not go with a model of so many tokens and positions (None: any number); None if it
    does. Latent settings aside: `jobs.generate.thoughts.misfit`."""
    if not request.ids:
        return "the prompt is empty: there is no token to start from"
    wrong = next((i for i in request.ids if not 0 <= i < vocabulary), None)
    if wrong is not None:
        return f"the prompt has token {wrong}, the model knows 0 to {vocabulary - 1}"
    if positions is not None and total(request) > positions:
        return (
            f"the prompt's {len(request.ids)} tokens and max_new_tokens "
            f"({request.sampling.max_new_tokens}) exceed the model's {positions} positions"
        )
    return None


def sorted_out(
    requests: Iterable[Request], refuses: Callable[[Request], str | None]
) -> tuple[list[Request], list[Sample]]:
    """The requests that can be served, and for each other one the sample that says why not."""
    admitted, refused = [], []
    for request in requests:
        reason = refuses(request)
        if reason is None:
            admitted.append(request)
        else:
            refused.append(Sample(request.id, request.index, [], [], "error", error=reason))
    return admitted, refused
