package keys

import (
	"crypto/rand"
	"errors"
	"hash/crc32"
	"strings"

	"postern/shared/secret"
)

// A token's parts. base62 is its digits in the order of their bytes.
const (
	base62      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	prefix      = "postern_"
	idLength    = 12
	checkLength = 6
)

// secretLength base62 digits are the fewest that hold 256 bits.
const secretLength = 43

// What Parse finds wrong. Neither says anything of the token.
var (
	ErrForm     = errors.New("an issued key is postern_, 12 letters or digits, _, and 49 letters or digits: copy it whole")
	ErrChecksum = errors.New("the checksum doesn't fit: a character of the key is wrong, copy it anew")
)

// New makes a token that nobody has, and the id in it.
func New() (id string, token secret.String) {
	id = random(idLength)
	return id, renew(id)
}

// renew makes another token of an id.
func renew(id string) secret.String {
	body := prefix + id + "_" + random(secretLength)
	sum := checksum(body)
	return secret.New(body + string(sum[:]))
}

// Parse returns the id in a token, or ErrForm or ErrChecksum. It asks nobody: a
// token that it takes need not have been issued.
func Parse(token string) (id string, err error) {
	if !secret.IsIssued(token) {
		return "", ErrForm
	}
	body, check := token[:len(token)-checkLength], token[len(token)-checkLength:]
	if sum := checksum(body); check != string(sum[:]) {
		return "", ErrChecksum
	}
	return token[len(prefix):][:idLength], nil
}

// checksum is body's CRC-32 (IEEE) in base62. It tells a slip of the hand, which
// changes a few neighbouring characters, and is no protection against anybody:
// who has the body can compute it.
func checksum(body string) (digits [checkLength]byte) {
	sum := crc32.ChecksumIEEE([]byte(body))
	for i := checkLength - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return digits
}

// random is n base62 digits, each as likely as the others: bytes from 4×62 on
// would make the first eight likelier, and are thrown away.
func random(n int) string {
	digits := make([]byte, 0, n)
	var pool [64]byte
	for {
		rand.Read(pool[:]) // never fails: crypto/rand aborts the process instead
		for _, b := range pool {
			if b < 4*62 {
				digits = append(digits, base62[b%62])
			}
			if len(digits) == n {
				return string(digits)
			}
		}
	}
}

// isID reports whether s can be a key's id.
func isID(s string) bool { return len(s) == idLength && strings.Trim(s, base62) == "" }
