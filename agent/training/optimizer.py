"""AdamW (Loshchilov and Hutter, 2019) for a few million adapter weights.

torch.optim has the same formula, but constructing one of its optimizers imports torch's compiler:
800 modules and 68 MB of anonymous memory, more than the whole state kept here.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_BETA_1 = 0.9
_BETA_2 = 0.999
_EPSILON = 1e-8
# As in torch.nn.utils.clip_grad_norm_: no division by zero.
_NORM_EPSILON = 1e-6


class AdamW:
    """The two moments of every parameter, by the parameter's name."""

    def __init__(self, parameters: Mapping[str, Tensor], weight_decay: float) -> None:
        self._parameters = dict(parameters)
        self._weight_decay = weight_decay
        self.steps = 0
        self.first_moments = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second_moments = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates the parameters from their gradients."""
        self.steps += 1
        step_size = learning_rate / (1 - _BETA_1**self.steps)
        correction = math.sqrt(1 - _BETA_2**self.steps)
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first, second = self.first_moments[name], self.second_moments[name]
            parameter.mul_(1 - learning_rate * self._weight_decay)
            first.lerp_(gradient, 1 - _BETA_1)
            second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
            spread = second.sqrt().div_(correction).add_(_EPSILON)
            parameter.addcdiv_(first, spread, value=-step_size)

    def clip(self, limit: float) -> float:
        """Scales the gradients to a global norm of at most ``limit`` (0: leaves them); returns the
        norm before."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        norm = float(torch.linalg.vector_norm(norms))
        if 0 < limit < norm:
            for gradient in gradients:
                gradient.mul_(limit / (norm + _NORM_EPSILON))
        return norm

    def reset(self) -> None:
        """As if it were new."""
        self.steps = 0
        for moments in (self.first_moments, self.second_moments):
            for moment in moments.values():
                moment.zero_()

    def clear(self) -> None:
        """Forgets the gradients, memory included."""
        for parameter in self._parameters.values():
            parameter.grad = None
