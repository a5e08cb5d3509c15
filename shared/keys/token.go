// Package keys holds issued keys. So far that is the form of their tokens,
// which the settings need: a configured token of this form is refused, because
// a token of this form is only ever looked up.
package keys

import "regexp"

// Pattern is the regular expression of an issued key's token, published for
// secret scanners: "postern_", an id of 12 base62 characters, "_", a secret of
// 43 and a checksum of 6.
const Pattern = `postern_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`

var pattern = regexp.MustCompile(`^` + Pattern + `$`)

// HasForm reports whether token looks like an issued key, its checksum apart.
func HasForm(token string) bool { return pattern.MatchString(token) }
