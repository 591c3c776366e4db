"""An engine of one's own: completions from a server that takes and gives token ids as JSON.

POST {"prompt": ids, "seed": n, "temperature": t, "max_new_tokens": m} is answered with {"ids": ids, "stop": bool}.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from urllib.request import urlopen

import phfcli as phf
from phfcli.core.rollouts.engine import Serving
from phfcli.core.types import Completion, Request, Sampling


class ServedEngine:
    name = "served"

    def __init__(self, url: str, _serving: Serving) -> None:
        self._url = url

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        for index, request in enumerate(requests):
            asked = {"prompt": request.prompt_ids, "seed": request.seed, "temperature": sampling.temperature}
            body = json.dumps(asked | {"max_new_tokens": sampling.max_new_tokens}).encode()
            with urlopen(self._url, data=body) as answer:
                drawn = json.load(answer)
            yield index, Completion(tuple(drawn["ids"]), (), finish="stop" if drawn["stop"] else "length")

    def close(self) -> None:
        """Nothing was started."""


if __name__ == "__main__":
    phf.register_engine("served", partial(ServedEngine, sys.argv[1]))
    print(phf.evaluate("embedded", n=1, limit=4, engine="served"))
