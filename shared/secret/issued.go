package secret

import (
	"encoding/hex"
	"strings"
)

// IssuedPattern is the regular expression of an issued key's token, published for
// secret scanners: "postern_", an id of 12 base62 characters, "_", a secret of
// 43 and a checksum of 6.
const IssuedPattern = `postern_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`

// IsIssued reports whether token has the form of an issued key, IssuedPattern as
// a whole. A token of that form is only ever looked up, and never configured. It
// is written out because package regexp would cost every Lambda 200 KB.
func IsIssued(token string) bool {
	rest, found := strings.CutPrefix(token, "postern_")
	return found && len(rest) == 12+1+49 && base62(rest[:12]) && rest[12] == '_' && base62(rest[13:])
}

// Reveal returns d as ParseDigest reads it, for the record of an issued key,
// which is the one place where a digest is kept.
func (d Digest) Reveal() string { return hex.EncodeToString([]byte(d.sum.Reveal())) }

func base62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
