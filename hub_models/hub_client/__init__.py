"""Talk to the Hub: requests with retries, repositories, verified downloads of models."""
