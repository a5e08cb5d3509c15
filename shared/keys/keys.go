// Package keys is issued keys: credentials that an administrator gives to each
// client, sees the use of, and takes back.
//
//	postern_<id>_<secret><check>      token.go
//
// The id is public: it finds the key's record, names the caller everywhere, and
// stays through rotations. The secret is 256 random bits, shown once; the check
// tells a mistyped token without a look-up. A record (Key, and the digests of one
// or two tokens) lives in a table.Table under its id, so finding one costs the
// same however many there are. The record's version is its ETag, and whoever
// changes a record says which version that was decided on.
//
// Source looks keys up for auth.Verifier, from a cache that is at most 5 s old.
// Admin serves /keys. Every change goes through the audit log, intent first; no
// caller gives what it does not hold (ceiling.go).
//
// A record is never removed. A revoked key is over for good: its record stays,
// marked, and takes no change.
package keys

import (
	"strings"
	"time"

	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
)

// Grant is what an administrator decides about a key.
type Grant struct {
	Name         string        `json:"name"`
	Scopes       []route.Scope `json:"scopes"`
	Agents       []string      `json:"agents"`         // nil: all
	AllowedIPs   []string      `json:"allowed_ips"`    // nil: all
	RateLimit    *int          `json:"rate_limit"`     // requests an hour; nil: the default; 0: none
	TokensPerDay *int          `json:"tokens_per_day"` // nil: no budget
	ExpiresAt    *time.Time    `json:"expires_at"`     // nil: never
	Disabled     bool          `json:"disabled"`
}

// Key is a key's record as an administrator sees it.
type Key struct {
	ID string `json:"id"`
	Grant
	CreatedAt         time.Time  `json:"created_at"`
	CreatedBy         string     `json:"created_by"`          // a caller's id
	RevokedAt         *time.Time `json:"revoked_at"`          // nil: it is not
	PreviousExpiresAt *time.Time `json:"previous_expires_at"` // when the token before the last rotation ends; nil: there is none
}

// record is a Key, the digests of its tokens, and the version that all this is.
type record struct {
	Key
	current  secret.Digest
	previous secret.Digest // valid until PreviousExpiresAt
	version  int64         // in the table; 0: not there yet
}

// rotate puts another token in the place of the current one, which stays valid
// for grace, though never beyond the key's own expiry. An older one ends now.
func (r *record) rotate(token secret.Digest, grace time.Duration, now time.Time) {
	end := now.Add(grace)
	r.previous, r.current, r.PreviousExpiresAt = r.current, token, &end
	r.boundPrevious()
	if !now.Before(*r.PreviousExpiresAt) {
		r.previous, r.PreviousExpiresAt = secret.Digest{}, nil
	}
}

// boundPrevious ends the previous token where the key ends.
func (r *record) boundPrevious() {
	if r.PreviousExpiresAt != nil && r.ExpiresAt != nil && r.ExpiresAt.Before(*r.PreviousExpiresAt) {
		r.PreviousExpiresAt = r.ExpiresAt
	}
}

// state is why a key is refused whatever its token is; nil: it is not.
func (k *Key) state(now time.Time) error {
	switch {
	case k.RevokedAt != nil:
		return auth.Revoked
	case k.Disabled:
		return auth.Disabled
	case k.ExpiresAt != nil && !now.Before(*k.ExpiresAt):
		return auth.Expired
	}
	return nil
}

// caller is who holds the key.
func (k *Key) caller() (auth.Caller, error) {
	addresses, err := auth.ParseAddresses(strings.Join(k.AllowedIPs, ","))
	if err == nil && k.AllowedIPs != nil && addresses.All() {
		err = errNoAddress
	}
	c := auth.Caller{
		ID:           k.ID,
		Kind:         auth.IssuedKey,
		Name:         k.Name,
		Scopes:       k.Scopes,
		Agents:       k.Agents,
		Addresses:    addresses,
		RateLimit:    k.RateLimit,
		TokensPerDay: k.TokensPerDay,
	}
	if k.ExpiresAt != nil {
		c.ExpiresAt = *k.ExpiresAt
	}
	return c, err
}
