package limit

// Denied is how many denials h remembers.
func Denied(h *Hourly) int { return len(h.denied) }

// Sources is how many addresses f tells apart.
func Sources(f *Flood) int { return len(f.failures) }
