package jobs_test

import (
	"net/netip"
	"testing"

	"postern/shared/jobs"
)

// I13: every range that is nobody's on the internet, from its first address to its
// last, and its neighbours.
func TestI13Public(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		what                       string
		before, first, last, after string // "": not an address, or another range's
	}{
		{"this network", "", "0.0.0.0", "0.255.255.255", "1.0.0.0"},
		{"private, class A", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
		{"shared behind a carrier's NAT", "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
		{"loopback", "126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"},
		{"Azure's wire server", "168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"},
		{"link-local", "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"},
		{"private, class B", "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
		{"protocol assignments", "191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"},
		{"documentation 1", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
		{"6to4 relays", "192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"},
		{"private, class C", "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
		{"benchmarks", "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"},
		{"documentation 2", "198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"},
		{"documentation 3", "203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"},
		{"multicast, reserved, broadcast", "223.255.255.255", "224.0.0.0", "255.255.255.255", ""},

		{"all of IPv6 before unicast", "", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"},
		{"all of IPv6 after unicast", "3fff:1000::", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"protocol assignments, Teredo", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"},
		{"documentation", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"},
		{"6to4", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"},
		{"new documentation", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"},

		{"mapped loopback", "::ffff:126.255.255.255", "::ffff:127.0.0.0", "::ffff:127.255.255.255", "::ffff:128.0.0.0"},
		{"loopback behind NAT64", "64:ff9b::126.255.255.255", "64:ff9b::127.0.0.0", "64:ff9b::127.255.255.255", "64:ff9b::128.0.0.0"},
		{"what is no NAT64, before", "", "64:ff9a:ffff:ffff:ffff:ffff:808:808", "64:ff9a:ffff:ffff:ffff:ffff:808:808", "64:ff9b::808:808"},
		{"what is no NAT64, after", "64:ff9b::808:808", "64:ff9b::1:808:808", "64:ff9b::1:808:808", ""},
	} {
		for _, end := range []struct {
			name, address string
			public        bool
		}{{"before", row.before, true}, {"first", row.first, false}, {"last", row.last, false}, {"after", row.after, true}} {
			if end.address == "" {
				continue
			}
			if got := jobs.Public(netip.MustParseAddr(end.address)); got != end.public {
				t.Errorf("%s, %s: Public(%s) = %v", row.what, end.name, end.address, got)
			}
		}
	}
}

// I13: addresses that somebody had in mind, and each in all its clothes.
func TestI13KnownAddresses(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"8.8.8.8":                  true,
		"192.31.196.1":             true, // AS112: in the registry, and reachable by all
		"2606:4700:4700::1111":     true,
		"2a00:1450:4001:810::1":    true,
		"::ffff:8.8.8.8":           true,
		"64:ff9b::8.8.8.8":         true,
		"::ffff:8.8.8.8%eth0":      false,
		"64:ff9b::8.8.8.8%eth0":    false,
		"2606:4700::1111%eth0":     false,
		"169.254.169.254":          false, // metadata of AWS, Google, Azure, DigitalOcean
		"169.254.170.2":            false, // credentials of ECS
		"100.100.100.200":          false, // metadata of Alibaba
		"192.0.0.192":              false, // of Oracle
		"fd00:ec2::254":            false, // of AWS, over IPv6
		"fd20:ce::254":             false, // of Google, over IPv6
		"::1":                      false,
		"::127.0.0.1":              false, // compatible
		"::8.8.8.8":                false,
		"fe80::1":                  false,
		"fe80::1%eth0":             false,
		"fec0::1":                  false, // site-local
		"fc00::1":                  false,
		"ff02::1":                  false,
		"64:ff9b:1::8.8.8.8":       false, // a network's own NAT64
		"100::1":                   false, // discard-only
		"5f00::1":                  false, // segment routing
		"2001:0:808:808::1":        false, // Teredo
		"2002:7f00:1::1":           false, // 6to4 of loopback
		"2002:808:808::1":          false,
		"64:ff9b::169.254.169.254": false,
		"::ffff:169.254.169.254":   false,
		"::ffff:0:169.254.169.254": false, // SIIT's translated
	} {
		if got := jobs.Public(netip.MustParseAddr(address)); got != public {
			t.Errorf("Public(%s) = %v", address, got)
		}
	}
	if jobs.Public(netip.Addr{}) {
		t.Error("no address at all is public")
	}
}

// An IPv4 address is judged alike in all its clothes, and package netip finds
// nothing private in what is public.
func FuzzPublic(f *testing.F) {
	for _, s := range []string{"8.8.8.8", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::1.1.1.1", "2001:db8::1", "2606::1", "fe80::1"} {
		f.Add(netip.MustParseAddr(s).AsSlice())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		public := jobs.Public(a)
		if public != jobs.Public(a.Unmap()) {
			t.Errorf("%v and %v differ", a, a.Unmap())
		}
		if b := a.Unmap(); b.Is4() {
			mapped, behind := b.As16(), b.As16()
			copy(behind[:], []byte{0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0})
			if jobs.Public(netip.AddrFrom16(mapped)) != public || jobs.Public(netip.AddrFrom16(behind)) != public {
				t.Errorf("%v is judged otherwise in IPv6", b)
			}
		}
		if b := a.Unmap(); public && (!b.IsGlobalUnicast() || b.IsPrivate()) {
			t.Errorf("%v is public", a)
		}
		if jobs.Public(a.WithZone("eth0")) && a.Is6() {
			t.Errorf("%v is public in a zone", a)
		}
	})
}
