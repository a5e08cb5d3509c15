// Package keys is issued keys: credentials that an administrator gives to each
// client, sees the use of, and takes back.
//
//	postern_<id>_<secret><check>      token.go
//
// The id is public: it finds the key's record, names the caller everywhere, and
// stays through rotations. The secret is 256 random bits, shown once; the check
// tells a mistyped token without a look-up. A record (Key, and the digests of its
// tokens) lives in a table.Table under its id, so finding one costs the same
// however many there are. The record's version is its ETag, and whoever
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
	"slices"
	"strings"
	"time"

	"postern/shared/api"
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
	PreviousExpiresAt *time.Time `json:"previous_expires_at"` // when the last of the tokens from before rotations ends; nil: there is none
}

// record is a Key, the digests of its tokens, and the version that all this is.
type record struct {
	Key
	current secret.Digest
	older   []older // at most maxOlder
	version int64   // in the table; 0: not there yet
}

// older is a token from before a rotation.
type older struct {
	digest secret.Digest
	end    time.Time
}

// maxOlder is how many older tokens a key can have.
const maxOlder = 4

// accepts reports whether a token with that digest is valid now, if the key is.
// It compares as often whatever there is to compare with, so that its time tells
// nothing of that.
func (r *record) accepts(d secret.Digest, now time.Time) bool {
	accepted := r.current.Equal(d)
	for i := range maxOlder {
		o := older{digest: r.current} // in the place of one that there is not; it has ended
		if i < len(r.older) {
			o = r.older[i]
		}
		same := o.digest.Equal(d)
		accepted = accepted || same && now.Before(o.end)
	}
	return accepted
}

// rotate puts another token in the place of the current one, which stays valid
// for grace, though never beyond the key's own expiry. Older ones keep their own
// ends. Without a grace all of them end now.
func (r *record) rotate(token secret.Digest, grace time.Duration, now time.Time) error {
	left := slices.DeleteFunc(r.older, func(o older) bool { return !now.Before(o.end) })
	switch {
	case grace == 0:
		left = nil
	case len(left) == maxOlder:
		first := slices.MinFunc(left, func(a, b older) int { return a.end.Compare(b.end) })
		return api.Fail(api.Conflict, "%d older tokens of this key still work, the first of them until %s: wait until then, or end them all with the grace 0.",
			maxOlder, first.end.Format(time.RFC3339))
	default:
		left = append(left, older{r.current, now.Add(grace)})
	}
	r.current, r.older = token, left
	r.boundOlder()
	return nil
}

// boundOlder ends the older tokens where the key ends.
func (r *record) boundOlder() {
	r.PreviousExpiresAt = nil
	for i := range r.older {
		if r.ExpiresAt != nil && r.ExpiresAt.Before(r.older[i].end) {
			r.older[i].end = *r.ExpiresAt
		}
	}
	if len(r.older) > 0 {
		end := latest(r.older)
		r.PreviousExpiresAt = &end
	}
}

// latest is the last end of some tokens.
func latest(tokens []older) time.Time {
	return slices.MaxFunc(tokens, func(a, b older) int { return a.end.Compare(b.end) }).end
}

// State is why a key is refused whatever its token is: auth.Revoked, Disabled or
// Expired; nil: it is not.
func (k *Key) State(now time.Time) error {
	switch {
	case k.RevokedAt != nil:
		return auth.Revoked
	case k.Disabled:
		return auth.Disabled
	case k.hasExpired(now):
		return auth.Expired
	}
	return nil
}

func (k *Key) hasExpired(now time.Time) bool { return k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) }

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
