"""The private side: stored events become orders, codes, confirmations and notifications."""
