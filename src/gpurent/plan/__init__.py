"""From a job and the market to a quote: pure functions, no clock, no network."""
