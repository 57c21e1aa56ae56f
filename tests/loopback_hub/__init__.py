"""A Hub on the loopback address, for tests and the demo: real HTTP for the real clients, all in memory."""

from loopback_hub.clients import clients_of
from loopback_hub.hub import LoopbackHub
from loopback_hub.messages import Request
from loopback_hub.repos import Commit, Repo

__all__ = ["Commit", "LoopbackHub", "Repo", "Request", "clients_of"]
