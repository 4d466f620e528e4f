"""Real servers, builders of webhooks and other means that the tests share."""
