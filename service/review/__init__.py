"""Labels by people for the rows that a model learns most from: which rows, their answers, and what they buy."""
