"""Money over time: the durable ledger, what it folds to, and the pure decisions about deadlines and reaping."""
