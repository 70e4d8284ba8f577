"""Where a model or tokenizer lies, and what is wrong with it in words."""

from __future__ import annotations

from pathlib import Path

from jobs.runtime.errors import JobUserError


def locate(source: str | Path) -> str:
    """A directory as it is, or a Hub id. Raises JobUserError for what can be neither."""
    text = str(source)
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise JobUserError(
            f"{text} is a file, not a model directory", hint="name the directory that holds config.json"
        )
    if isinstance(source, Path) or text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise JobUserError(f"no such model directory: {text}")
    return text


def check_weights(folder: Path) -> None:
    """A local directory must hold a config and safetensors weights. Raises JobUserError otherwise."""
    names = sorted(p.name for p in folder.iterdir())
    if "adapter_config.json" in names and "config.json" not in names:
        raise JobUserError(
            f"{folder} holds a LoRA adapter, not a whole model",
            hint="merge it into its base model first (peft: merge_and_unload, then save_pretrained)",
        )
    if "config.json" not in names:
        raise JobUserError(f"{folder} has no config.json: not a Hugging Face model directory")
    if any(n.endswith(".safetensors") for n in names):
        return
    pickled = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        raise JobUserError(
            f"{folder} has no safetensors weights, only {', '.join(pickled[:3])}",
            hint="pickled weights can run code when they are read; convert them: "
            "save_pretrained(DIR, safe_serialization=True)",
        )
    raise JobUserError(f"{folder} has a config.json but no weights (*.safetensors)")


def explain(source: str, what: str, error: Exception) -> JobUserError:
    """One clear error for what transformers or the Hub raised while loading `what` ("model", "tokenizer")."""
    names = {type(e).__name__ for e in _chain(error)}
    text = " ".join(str(e) for e in _chain(error))
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "trust_remote_code" in text:
        return JobUserError(
            f"the {what} {source} comes with its own Python code",
            hint="read that code; if you trust it, say `model: {trust_remote_code: true}`",
        )
    absent = "RepositoryNotFoundError" in names and "GatedRepoError" not in names  # the latter is one, too
    if absent or "is not a valid model identifier" in text:
        return JobUserError(
            f"no {what} {source}: neither a directory here nor a repository on the Hugging Face Hub",
            hint="a private repository needs HF_TOKEN (pass_env in the cluster profile)",
        )
    if "GatedRepoError" in names or "gated repo" in text:
        return JobUserError(
            f"the {what} {source} is gated on the Hugging Face Hub",
            hint="ask for access on its page, then `hf auth login` or hand through HF_TOKEN (pass_env)",
        )
    offline = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError"}
    if names & offline or "couldn't connect" in text or "offline" in text.lower():
        return JobUserError(
            f"the {what} {source} is not a directory here, and the Hugging Face Hub cannot be reached",
            hint=f"download it where there is a network (`hf download {source}`), "
            "or give the path of a directory",
        )
    if "safetensors" in text and "EnvironmentError" not in first:
        return JobUserError(f"the {what} {source} cannot be read: {first}", hint="safetensors weights only")
    return JobUserError(f"the {what} {source} cannot be read: {first}")


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
