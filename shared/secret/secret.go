// Package secret holds what must not be seen: tokens, their digests, and the
// rule by which two of them are compared.
//
// A token exists in clear only inside a String, whose every way out (fmt, slog,
// encoding/json, text marshalling) prints a placeholder; Reveal is the one door,
// easy to search for. As soon as a token is known it becomes a Digest, and only
// digests are kept and compared, always by crypto/subtle: the tokens are 256-bit
// random values, so a fast hash is right and a slow one would only let a
// handful of requests a second saturate a server.
//
// Rotating is the root token of a deployment: two labelled versions in a
// Store (package secretsmanager has the AWS one), cached in the process, and
// closed whenever the store can't answer for too long.
package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
)

const redacted = "[redacted]"

// silent gives the type it is embedded in every way out, each with the
// placeholder.
type silent struct{}

func (silent) String() string               { return redacted }
func (silent) GoString() string             { return redacted }
func (silent) Format(f fmt.State, _ rune)   { f.Write([]byte(redacted)) }
func (silent) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (silent) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// String is a secret text. Its zero value is the empty secret.
//
// The text is behind a pointer, because fmt calls no method of what it finds in
// a struct's unexported field, or prints for a verb that doesn't fit: it writes
// the fields instead. It follows pointers to structs and arrays, to a string never.
type String struct {
	silent
	text *string
}

// New wraps text.
func New(text string) String {
	if text == "" {
		return String{}
	}
	return String{text: &text}
}

// Reveal returns the secret in clear.
func (s String) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsEmpty reports whether there is nothing to hide.
func (s String) IsEmpty() bool { return s.text == nil }

// Digest is the SHA-256 of a token. It is as secret as the token is useless
// without it: printed nowhere. Its zero value is the digest of nothing and equal
// to none. Compare with Equal, since == compares pointers.
type Digest struct {
	silent
	sum String
}

// DigestOf hashes token.
func DigestOf(token string) Digest {
	var buffer [MaxToken]byte // on the stack, where a conversion of this length would not be
	sum := sha256.Sum256(append(buffer[:0], token...))
	return Digest{sum: New(string(sum[:]))}
}

// ParseDigest reads 64 hexadecimal digits of either case.
func ParseDigest(s string) (Digest, bool) {
	if len(s) != hex.EncodedLen(sha256.Size) {
		return Digest{}, false
	}
	sum, err := hex.DecodeString(s)
	if err != nil {
		return Digest{}, false
	}
	return Digest{sum: New(string(sum))}, true
}

// Equal compares in constant time.
func (d Digest) Equal(other Digest) bool { return d.Compare(other) == 1 }

// Compare is Equal as 1 or 0.
func (d Digest) Compare(other Digest) int {
	if d.sum.IsEmpty() || other.sum.IsEmpty() {
		return 0
	}
	return subtle.ConstantTimeCompare([]byte(d.sum.Reveal()), []byte(other.sum.Reveal()))
}

// Label is the first 8 hexadecimal digits, by which a configured client is
// told from another in logs. 32 bits of a 256-bit digest give nothing away.
func (d Digest) Label() string { return fmt.Sprintf("%.4x", d.sum.Reveal()) }

// MaxToken is the longest token that is ever looked at, in bytes.
const MaxToken = 512

// WellFormed reports whether s can be a token: 1 to MaxToken bytes, each a
// visible ASCII character (0x21 to 0x7E, the VCHAR of RFC 5234).
func WellFormed(s string) bool {
	if len(s) == 0 || len(s) > MaxToken {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// ParseConfigured reads a credential as an operator writes it: a token, or
// "sha256:" and 64 hexadecimal digits. White space around it (the newline that
// an editor or `echo` leaves) is not part of it. The error says what is wrong
// and never repeats the value.
func ParseConfigured(s string) (Digest, error) {
	s = strings.TrimSpace(s)
	if hexDigits, found := strings.CutPrefix(s, "sha256:"); found {
		d, ok := ParseDigest(hexDigits)
		if !ok {
			return Digest{}, fmt.Errorf("sha256: must be followed by exactly 64 hexadecimal digits, here are %d characters", len(hexDigits))
		}
		return d, nil
	}
	switch {
	case s == "":
		return Digest{}, fmt.Errorf("it is empty")
	case len(s) > MaxToken:
		return Digest{}, fmt.Errorf("it has %d bytes, at most %d are allowed", len(s), MaxToken)
	case IsIssued(s):
		return Digest{}, fmt.Errorf("it has the form of an issued key, which works without being configured")
	case !WellFormed(s):
		return Digest{}, fmt.Errorf("it has a space or a character outside printable ASCII, which no client could send")
	}
	return DigestOf(s), nil
}

// Generate makes a token of 32 random bytes: 43 URL-safe characters.
func Generate() String {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return New(base64.RawURLEncoding.EncodeToString(b[:]))
}
