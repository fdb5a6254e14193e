package flush

// BudgetHeld returns how many bytes b counts as held.
func BudgetHeld(b *Budget) int64 { return b.held.Load() }
