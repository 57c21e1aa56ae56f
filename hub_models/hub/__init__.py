"""Put models, data and the page on the Hub: cards, files, one commit."""

from typing import TYPE_CHECKING

from hub_models.lazy import loader

if TYPE_CHECKING:
    from hub_models.hub.push import Push as Push
    from hub_models.hub.push import push_model as push_model
    from hub_models.hub_client.downloads import pull_model as pull_model

__getattr__ = loader(
    __name__,
    {
        "Push": "hub_models.hub.push",
        "push_model": "hub_models.hub.push",
        "pull_model": "hub_models.hub_client.downloads",
    },
)
