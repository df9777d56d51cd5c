"""Tables of labeled texts to checked, split and tokenized rows."""
