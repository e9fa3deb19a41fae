"""torch.compile, and the function as it is where that cannot be."""

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class Compiled:
    """``torch.compile(function)``; if it cannot be compiled, one warning and the function itself from then on.

    It is compiled when it is called first, and again for another size, type or mode.

    Args:
        owner: whose function it is, for the warning.
        options: of torch.compile.
    """

    def __init__(self, function: Callable, owner: str, **options: Any):
        from torch._dynamo.exc import TorchDynamoException  # slow to import

        self.function, self.owner, self.failure = function, owner, TorchDynamoException
        self.call = torch.compile(function, **options)

    def __call__(self, *arguments: Any) -> Any:
        if self.call is self.function:
            return self.function(*arguments)
        try:
            return self.call(*arguments)
        except self.failure as error:
            reason = str(error).strip().splitlines()[0][:300]
            logger.warning("%s cannot be compiled (%s), and runs as without that", self.owner, reason)
            self.call = self.function
            return self.function(*arguments)
