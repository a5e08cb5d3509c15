package keys

// Cached is how many ids s knows, and how many it knows not to be there.
func Cached(s *Source) (known, absent int) { return len(s.known), len(s.absent) }
