package keys

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
)

// What requests say of a key. An answer to a faulty field names it, the fault and
// what it takes. It repeats nothing of the value, which may be a token in the
// wrong place.

// Bounds of the fields.
const (
	maxName    = 128 // characters
	maxAgent   = 64  // characters
	maxEntries = 100
	maxRate    = 1_000_000_000
	maxTokens  = 1_000_000_000_000
	maxGrace   = 30 * 24 * time.Hour
)

// optional is a field that may be absent, null or a T.
type optional[T any] struct {
	given bool // it stands in the body
	null  bool
	value T
}

// UnmarshalJSON implements json.Unmarshaler; package api calls it for null too.
func (o *optional[T]) UnmarshalJSON(b []byte) error {
	o.given, o.null = true, string(b) == "null"
	return json.Unmarshal(b, &o.value)
}

// texts is an array of strings. Package json would take a null in it for "".
type texts []string

var errTexts = errors.New("it takes an array of strings")

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(b []byte) error {
	var entries []*string
	if json.Unmarshal(b, &entries) != nil || slices.Contains(entries, nil) {
		return errTexts
	}
	for _, e := range entries {
		*t = append(*t, *e)
	}
	return nil
}

// creation is the body of POST /keys.
type creation struct {
	Name         optional[string] `json:"name"`
	Scopes       optional[texts]  `json:"scopes"`
	Agents       optional[texts]  `json:"agents"`
	AllowedIPs   optional[texts]  `json:"allowed_ips"`
	RateLimit    optional[int]    `json:"rate_limit"`
	TokensPerDay optional[int]    `json:"tokens_per_day"`
	ExpiresAt    optional[string] `json:"expires_at"`
}

// change is the body of PATCH /keys/{id}. A field that is absent stays, and one
// that is null is cleared if a key can be without it.
type change struct {
	creation
	Disabled optional[bool] `json:"disabled"`
}

// isEmpty reports whether no field is given.
func (c change) isEmpty() bool {
	return !c.Name.given && !c.Scopes.given && !c.Agents.given && !c.AllowedIPs.given &&
		!c.RateLimit.given && !c.TokensPerDay.given && !c.ExpiresAt.given && !c.Disabled.given
}

// onlyDisables reports whether the key is to be disabled and nothing else.
func (c change) onlyDisables() bool {
	disabled := c.Disabled.value
	c.Disabled = optional[bool]{}
	return disabled && c.isEmpty()
}

// grant is the Grant of a new key.
func (c creation) grant(now time.Time) (Grant, error) {
	if err := cmp.Or(
		refuseIf(!c.Name.given, "name", "is missing: every key has a name"),
		refuseIf(!c.Scopes.given, "scopes", "is missing: "+takesScopes),
	); err != nil {
		return Grant{}, err
	}
	return change{creation: c}.onto(Grant{}, now)
}

// onto is g as changed.
func (c change) onto(g Grant, now time.Time) (Grant, error) {
	return g, cmp.Or(
		refuseIf(c.Name.null, "name", "is null: "+takesName),
		refuseIf(c.Scopes.null, "scopes", "is null: "+takesScopes),
		refuseIf(c.Disabled.null, "disabled", "is null: it takes true or false"),
		set(&g.Name, "name", c.Name, name),
		set(&g.Scopes, "scopes", c.Scopes, scopes),
		set(&g.Agents, "agents", c.Agents, agents),
		set(&g.AllowedIPs, "allowed_ips", c.AllowedIPs, addresses),
		set(&g.RateLimit, "rate_limit", c.RateLimit, number(0, maxRate)),
		set(&g.TokensPerDay, "tokens_per_day", c.TokensPerDay, number(1, maxTokens)),
		set(&g.ExpiresAt, "expires_at", c.ExpiresAt, after(now)),
		set(&g.Disabled, "disabled", c.Disabled, func(b bool) (bool, error) { return b, nil }),
	)
}

// set reads a field that is given; null is its zero value.
func set[T, V any](to *V, field string, from optional[T], read func(T) (V, error)) error {
	if !from.given {
		return nil
	}
	var v V
	if !from.null {
		var err error
		if v, err = read(from.value); err != nil {
			return api.Fail(api.InvalidRequest, "The field %q %v.", field, err)
		}
	}
	*to = v
	return nil
}

func refuseIf(faulty bool, field, fault string) error {
	if !faulty {
		return nil
	}
	return api.Fail(api.InvalidRequest, "The field %q %s.", field, fault)
}

// One reader for each kind of field. Its error goes on after the field's name.

const (
	takesName   = "it takes 1 to 128 characters, no control characters among them"
	takesScopes = `it takes some of "agents:read", "chat" and "admin", each once`
)

func name(s string) (string, error) {
	switch n := utf8.RuneCountInString(s); {
	case strings.TrimSpace(s) == "":
		return "", errors.New("is blank: " + takesName)
	case n > maxName:
		return "", fmt.Errorf("has %d characters: %s", n, takesName)
	case strings.ContainsFunc(s, isControl):
		return "", errors.New("has a control character: " + takesName)
	case hasToken(s):
		return "", errors.New("has an issued key in it, or its beginning, which everybody who lists keys would see: choose another")
	}
	return s, nil
}

// hasToken reports whether something in s begins as an issued key does up to its
// secret, whole or not.
func hasToken(s string) bool {
	for {
		_, rest, found := strings.Cut(s, prefix)
		if !found {
			return false
		}
		if len(rest) > idLength && isID(rest[:idLength]) && rest[idLength] == '_' {
			return true
		}
		s = rest
	}
}

// isControl reports whether r does something to a line of text but stand in it.
func isControl(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

func scopes(list texts) ([]route.Scope, error) {
	known, err := entries(list, takesScopes, func(s string) bool {
		switch route.Scope(s) {
		case route.AgentsRead, route.Chat, route.Admin:
			return true
		}
		return false
	})
	var scopes []route.Scope
	for _, s := range known {
		scopes = append(scopes, route.Scope(s))
	}
	return scopes, err
}

func agents(list texts) ([]string, error) {
	return entries(list, "it takes 1 to 100 names of agents, each once, or null for all agents", func(s string) bool {
		return strings.TrimSpace(s) != "" && utf8.RuneCountInString(s) <= maxAgent && !strings.ContainsFunc(s, isControl) && !hasToken(s)
	})
}

// addresses takes no "*", which null says, and one entry for each address.
func addresses(list texts) ([]string, error) {
	return entries(list, "it takes 1 to 100 addresses (192.0.2.7, 2001:db8::7) and CIDR blocks (192.0.2.0/24), each once, or null for all addresses", func(s string) bool {
		set, err := auth.ParseAddresses(s)
		return err == nil && !set.All() && !strings.Contains(s, ",") && strings.TrimSpace(s) == s
	})
}

// entries checks a list, entry by entry.
func entries(list texts, takes string, valid func(string) bool) ([]string, error) {
	switch n := len(list); {
	case n == 0:
		return nil, errors.New("is empty: " + takes)
	case n > maxEntries:
		return nil, fmt.Errorf("has %d entries: %s", n, takes)
	}
	for i, entry := range list {
		switch {
		case !valid(entry):
			return nil, fmt.Errorf("has a wrong entry, number %d: %s", i+1, takes)
		case slices.Contains(list[:i], entry):
			return nil, fmt.Errorf("has the same entry twice, the second time as number %d: %s", i+1, takes)
		}
	}
	return list, nil
}

func number(min, max int) func(int) (*int, error) {
	return func(n int) (*int, error) {
		if n < min || n > max {
			return nil, fmt.Errorf("is out of range: it takes a whole number from %d to %d, or null", min, max)
		}
		return &n, nil
	}
}

func after(now time.Time) func(string) (*time.Time, error) {
	return func(s string) (*time.Time, error) {
		var t time.Time
		if t.UnmarshalText([]byte(s)) != nil || strings.Contains(s, ",") || t.UTC().Year() > 9999 { // package time takes a comma for a point
			return nil, errors.New("is no time: it takes one like 2027-01-31T12:00:00Z (RFC 3339), or null for never")
		}
		if t = t.UTC(); !t.After(now) {
			return nil, errors.New("is in the past: it takes a time to come, or null for never")
		}
		return &t, nil
	}
}

// rotation is the body of POST /keys/{id}/rotate; there may be none.
type rotation struct {
	Grace optional[string] `json:"grace"`
}

// defaultGrace is that of a rotation that doesn't say.
const defaultGrace = 24 * time.Hour

func (r rotation) grace() (time.Duration, error) {
	if !r.Grace.given {
		return defaultGrace, nil
	}
	grace, ok := duration(r.Grace.value, maxGrace)
	return grace, refuseIf(!ok, "grace", "is no time that an old token can have left: it takes <n>s, <n>m, <n>h or <n>d, from 0 to 30d")
}

// duration reads <n>s, <n>m, <n>h or <n>d up to max, or a bare 0.
func duration(s string, max time.Duration) (time.Duration, bool) {
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	digits := strings.TrimRight(s, "smhd")
	unit, known := units[s[len(digits):]]
	if s == "0" {
		unit, known = time.Second, true
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if !known || err != nil || n > uint64(max/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
