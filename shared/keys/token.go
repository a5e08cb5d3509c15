// Package keys holds issued keys. So far that is the form of their tokens,
// which the settings need: a configured token of this form is refused, because
// a token of this form is only ever looked up.
package keys

import "strings"

// Pattern is the regular expression of an issued key's token, published for
// secret scanners: "postern_", an id of 12 base62 characters, "_", a secret of
// 43 and a checksum of 6.
const Pattern = `postern_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`

// HasForm reports whether token matches Pattern as a whole. It is written out
// because package regexp would cost every Lambda 200 KB.
func HasForm(token string) bool {
	rest, found := strings.CutPrefix(token, "postern_")
	return found && len(rest) == 12+1+49 && base62(rest[:12]) && rest[12] == '_' && base62(rest[13:])
}

func base62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
