package keys

// Cached is how many ids s knows, and how many it knows not to be there.
func Cached(s *Source) (known, absent int) {
	for _, e := range s.entries {
		if e.ID == "" {
			absent++
		} else {
			known++
		}
	}
	return known, absent
}
