"""Where in a model languages meet, by pooled states of every layer."""
