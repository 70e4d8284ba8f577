"""Why a request cannot be served by a model, in the same words whichever engine is asked."""

from __future__ import annotations

from jobs.generate.protocol import Request


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
