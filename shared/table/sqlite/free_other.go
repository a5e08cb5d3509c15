//go:build !(linux || darwin || freebsd)

package sqlite

import "math"

// free isn't known here.
func free(string) (uint64, error) { return math.MaxUint64, nil }
