"""The Ray actor of an agent.

Synchronous, without restarts or retries: its calls run in the order in which they were submitted, and a dead one stays
dead until the controller rolls everybody back, since a restarted one would have lost its state silently.
"""

from __future__ import annotations

from dataclasses import replace

import ray
import torch

from sparring.agents.direct import Direct
from sparring.agents.spec import AgentSpec, Facts


class _Actor(Direct):
    def __init__(self, spec: AgentSpec, lanes: int) -> None:
        torch.set_num_threads(spec.threads)
        super().__init__(spec)
        self.agent.warm_up(lanes)

    def describe(self) -> Facts:
        return replace(super().describe(), node=ray.util.get_node_ip_address())


AgentActor = ray.remote(max_restarts=0, max_task_retries=0)(_Actor)
