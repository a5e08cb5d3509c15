package jobs

import "net/netip"

// special4 is what IPv4 has that is nobody's on the internet, by IANA's registry
// (RFC 6890, https://www.iana.org/assignments/iana-ipv4-special-registry), and
// some more.
var special4 = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network; Linux takes 0.0.0.0 for loopback
	netip.MustParsePrefix("10.0.0.0/8"),       // private
	netip.MustParsePrefix("100.64.0.0/10"),    // shared behind a carrier's NAT; Alibaba's metadata
	netip.MustParsePrefix("127.0.0.0/8"),      // loopback
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's wire server, in no registry
	netip.MustParsePrefix("169.254.0.0/16"),   // link-local; metadata of AWS and most others
	netip.MustParsePrefix("172.16.0.0/12"),    // private
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments; Oracle's metadata
	netip.MustParsePrefix("192.0.2.0/24"),     // documentation
	netip.MustParsePrefix("192.88.99.0/24"),   // 6to4 relays
	netip.MustParsePrefix("192.168.0.0/16"),   // private
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),  // documentation
	netip.MustParsePrefix("203.0.113.0/24"),   // documentation
	netip.MustParsePrefix("224.0.0.0/4"),      // multicast
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved; broadcast
}

// unicast6 is all of IPv6 that is given out for the internet
// (https://www.iana.org/assignments/ipv6-address-space), and special6 what is
// something else in it (.../iana-ipv6-special-registry).
var (
	unicast6 = netip.MustParsePrefix("2000::/3")
	special6 = []netip.Prefix{
		netip.MustParsePrefix("2001::/23"),     // protocol assignments: Teredo, benchmarks, ORCHID
		netip.MustParsePrefix("2001:db8::/32"), // documentation
		netip.MustParsePrefix("2002::/16"),     // 6to4: any IPv4 address, by way of a relay
		netip.MustParsePrefix("3fff::/20"),     // documentation
	}
)

// nat64 is where a network that has IPv6 alone keeps IPv4 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Public reports whether a may be somebody's server on the internet. An IPv4
// address is the same one in IPv6's clothes, mapped or behind NAT64's well-known
// prefix. An address with a zone is on a link near by, and never public.
func Public(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a = a.Unmap(); a.Is4() {
		return !contain(special4, a)
	}
	return unicast6.Contains(a) && !contain(special6, a)
}

func contain(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
