package limit

// Counters is how many counters m holds.
func Counters(m *Memory) int { return len(m.counters) }

// Sources is how many addresses f tells apart.
func Sources(f *Flood) int { return len(f.failures) }
