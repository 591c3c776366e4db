"""Asks once whether the hub answers, because its client retries for minutes before it gives up."""

from functools import cache

_PATIENCE_S = 5.0


@cache
def hub_answers() -> bool:
    """Whether the hub answers; where it does not, its libraries are told to use their caches alone.

    To be called before anything is loaded by a hub id. HF_HUB_OFFLINE, HF_ENDPOINT and proxies are respected.
    """
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except Exception:  # of whichever HTTP library the client is built on
        import datasets

        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
        return False
    return True
