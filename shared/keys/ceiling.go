package keys

import (
	"net/netip"
	"slices"

	"postern/shared/api"
	"postern/shared/auth"
)

// Who may give what. The root token and ADMIN_API_KEY hold everything. Any other
// caller that may administer keys makes, changes and rotates only those that
// hold no more than itself, field by field, before the change and after it: a key
// that it made or rotated is one that it could use, and so it must be none that
// others hold to be more. Taking away needs no ceiling: everybody who may
// administer keys may disable and revoke any.

// ceiling is a Grant that another must not go beyond.
type ceiling struct {
	Grant
	defaultRate int // of keys without their own rate_limit; 0: none
}

// grantOf is what c holds, as far as it shows. Addresses that can't be listed
// any more are none.
func grantOf(c auth.Caller) Grant {
	g := Grant{Scopes: c.Scopes, Agents: c.Agents, RateLimit: c.RateLimit, TokensPerDay: c.TokensPerDay}
	if !c.ExpiresAt.IsZero() {
		g.ExpiresAt = &c.ExpiresAt
	}
	if !c.Addresses.All() {
		g.AllowedIPs = []string{}
	}
	return g
}

// admits refuses a Grant that goes beyond the ceiling, and names the field. Where
// there is no ceiling, nil, nothing does.
func (c *ceiling) admits(g Grant) error {
	field := ""
	switch {
	case c == nil:
		return nil
	case !subset(g.Scopes, c.Scopes):
		field = "scopes"
	case c.Agents != nil && (g.Agents == nil || !subset(g.Agents, c.Agents)):
		field = "agents"
	case c.AllowedIPs != nil && (g.AllowedIPs == nil || !covered(g.AllowedIPs, c.AllowedIPs)):
		field = "allowed_ips"
	case c.rate(g) > c.rate(c.Grant):
		field = "rate_limit"
	case c.TokensPerDay != nil && (g.TokensPerDay == nil || *g.TokensPerDay > *c.TokensPerDay):
		field = "tokens_per_day"
	case c.ExpiresAt != nil && (g.ExpiresAt == nil || g.ExpiresAt.After(*c.ExpiresAt)):
		field = "expires_at"
	default:
		return nil
	}
	return api.Fail(api.ScopeMissing, "No credential gives what it does not hold: the %q of this key goes beyond your own. Ask for less, or use a credential that holds more; to disable or revoke the key, yours will do.", field)
}

// rate is how many requests an hour a holder of g has.
func (c *ceiling) rate(g Grant) uint {
	n := c.defaultRate
	if g.RateLimit != nil {
		n = *g.RateLimit
	}
	return uint(n) - 1 // no limit, 0, becomes the highest
}

func subset[T comparable](part, whole []T) bool {
	return !slices.ContainsFunc(part, func(v T) bool { return !slices.Contains(whole, v) })
}

// covered reports whether each block of part lies within one of whole. Two
// halves are not taken for the whole block: that errs on the safe side.
func covered(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(entry string) bool {
		inner := block(entry)
		return !slices.ContainsFunc(whole, func(entry string) bool {
			outer := block(entry)
			return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
		})
	})
}

// block reads an entry of allowed_ips as auth.ParseAddresses does. One that is
// none contains nothing, and is in none.
func block(entry string) netip.Prefix {
	p, err := netip.ParsePrefix(entry)
	if err != nil {
		a, _ := netip.ParseAddr(entry)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}
