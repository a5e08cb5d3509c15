package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Addresses is a set of client addresses. The zero value contains every
// address: no list means no rule, and an empty list is refused where it is
// written, so that a stray comma can neither open nor close a door.
type Addresses struct {
	prefixes []netip.Prefix // nil: all
}

// ParseAddresses reads a comma-separated list of addresses, CIDR blocks and
// "*" (all). Spaces around an entry don't count, and "" is all. An IPv4 address
// written as IPv6 ("::ffff:192.0.2.1") is the IPv4 one.
func ParseAddresses(s string) (Addresses, error) {
	if strings.TrimSpace(s) == "" {
		return Addresses{}, nil
	}
	var set Addresses
	all := false
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "*" {
			all = true
			continue
		}
		p, err := parsePrefix(entry)
		if err != nil {
			return Addresses{}, err
		}
		set.prefixes = append(set.prefixes, p)
	}
	if all {
		return Addresses{}, nil
	}
	return set, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address (192.0.2.7, 2001:db8::7), a CIDR block (192.0.2.0/24) nor *", s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q mixes IPv4 with an IPv6 prefix length: write the IPv4 block itself", s)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// All reports whether the set is every address.
func (s Addresses) All() bool { return s.prefixes == nil }

// Equal reports whether both lists say the same in the same order.
func (s Addresses) Equal(other Addresses) bool {
	return s.All() == other.All() && slices.Equal(s.prefixes, other.prefixes)
}

// Contain reports whether a is in the set. An invalid address is in no set but
// the one of all.
func (s Addresses) Contain(a netip.Addr) bool {
	if s.prefixes == nil {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, p := range s.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Proxies are the peers whose word about the client's address is taken.
type Proxies struct {
	trusted []netip.Prefix // nil: nobody's
}

// ParseProxies reads a comma-separated list of addresses and CIDR blocks; ""
// trusts nobody. "*" is refused, and so is a block of everything: it would let
// any client choose its address.
func ParseProxies(s string) (Proxies, error) {
	set, err := ParseAddresses(s)
	if err != nil {
		return Proxies{}, err
	}
	everybody := ""
	if set.All() && strings.TrimSpace(s) != "" {
		everybody = "*"
	}
	for _, p := range set.prefixes {
		if p.Bits() == 0 {
			everybody = p.String()
		}
	}
	if everybody != "" {
		return Proxies{}, fmt.Errorf("%s would let every client choose its own address: list the proxies", everybody)
	}
	return Proxies{set.prefixes}, nil
}

func (p Proxies) trusts(a netip.Addr) bool {
	return p.trusted != nil && Addresses{p.trusted}.Contain(a)
}

// Client finds the address a request comes from. peer is the TCP peer;
// forwardedFor are the X-Forwarded-For header's values in the order received,
// realIP the X-Real-IP ones. The headers count only if peer is a trusted proxy:
// then the client is the right-most forwarded address that is not itself a
// trusted proxy, or else X-Real-IP, or else peer. Each proxy appends what it
// saw, so everything left of that address is the client's own claim.
//
// A forwarded entry that is no address, and an X-Real-IP beside another one,
// ends the search with the invalid Addr, which no address rule admits.
func (p Proxies) Client(peer netip.Addr, forwardedFor, realIP []string) netip.Addr {
	peer = peer.Unmap().WithZone("")
	if !p.trusts(peer) {
		return peer
	}
	for i := len(forwardedFor) - 1; i >= 0; i-- {
		rest, more := forwardedFor[i], true
		for more {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			a := parseHop(hop)
			if !a.IsValid() || !p.trusts(a) {
				return a
			}
		}
	}
	switch len(realIP) {
	case 0:
		return peer
	case 1:
		return parseHop(realIP[0])
	default:
		return netip.Addr{} // the client's own may be among them
	}
}

// parseHop reads an address as proxies write it, some with a port.
func parseHop(s string) netip.Addr {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone("")
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
