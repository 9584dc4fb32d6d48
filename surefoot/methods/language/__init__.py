"""Methods that align a language model: from preference pairs, from scored completions, or from what the model itself writes."""
