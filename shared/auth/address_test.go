package auth_test

import (
	"net/netip"
	"strings"
	"testing"

	"postern/shared/auth"
)

// addr reads an address; "" is the invalid one.
func addr(t testing.TB, s string) netip.Addr {
	t.Helper()
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func addrs(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, " ")
}

// TestAddresses is P9 and I8: what a list contains, at its edges.
func TestAddresses(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, list  string
		all         bool
		inside, out string // addresses between spaces
	}{
		{"no list is every address", "", true, "192.0.2.7 2001:db8::7 0.0.0.0 ::", ""},
		{"a list of nothing but spaces is no list", "  \t\n", true, "192.0.2.7", ""},
		{"a star is every address", "*", true, "192.0.2.7 2001:db8::7", ""},
		{"a star between spaces", " * ", true, "192.0.2.7", ""},
		{"a star in a list is every address", "10.0.0.1, *", true, "192.0.2.7 10.0.0.1", ""},
		{"one address", "192.0.2.7", false, "192.0.2.7 ::ffff:192.0.2.7", "192.0.2.6 192.0.2.8 2001:db8::7 ::192.0.2.7 ::ffff:192.0.2.8"},
		{"spaces around entries don't count", " 192.0.2.7 ,\t10.0.0.0/8\n", false, "192.0.2.7 10.1.2.3", "192.0.2.8 11.0.0.0"},
		{"a block, both edges", "192.0.2.0/24", false, "192.0.2.0 192.0.2.255", "192.0.1.255 192.0.3.0"},
		{"a block that cuts a byte", "192.0.2.64/26", false, "192.0.2.64 192.0.2.127", "192.0.2.63 192.0.2.128"},
		{"a block of one", "192.0.2.7/32", false, "192.0.2.7", "192.0.2.6 192.0.2.8"},
		{"a block of two", "192.0.2.6/31", false, "192.0.2.6 192.0.2.7", "192.0.2.5 192.0.2.8"},
		{"a block written by one of its addresses", "192.0.2.77/24", false, "192.0.2.0 192.0.2.255", "192.0.3.0"},
		{"all of IPv4 is not IPv6", "0.0.0.0/0", false, "0.0.0.0 255.255.255.255 ::ffff:1.2.3.4", "2001:db8::7 ::1"},
		{"all of IPv6 is not IPv4", "::/0", false, "2001:db8::7 ::1", "192.0.2.7 ::ffff:192.0.2.7"},
		{"an IPv6 address", "2001:db8::7", false, "2001:db8::7 2001:DB8:0:0::7 2001:db8::7%eth0", "2001:db8::8"},
		{"an IPv6 block, both edges", "2001:db8::/64", false, "2001:db8:: 2001:db8::ffff:ffff:ffff:ffff", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8:0:1::"},
		{"an IPv4 address written as IPv6", "::ffff:192.0.2.7", false, "192.0.2.7 ::ffff:192.0.2.7", "192.0.2.8 ::ffff:192.0.2.8"},
		{"an IPv4 address written as IPv6 in hexadecimal", "::ffff:c000:207", false, "192.0.2.7", "192.0.2.8"},
		{"an IPv4 block written as IPv6", "::ffff:192.0.2.0/120", false, "192.0.2.0 192.0.2.255 ::ffff:192.0.2.9", "192.0.1.255 192.0.3.0"},
		{"all of IPv4 written as IPv6", "::ffff:0:0/96", false, "1.2.3.4 ::ffff:1.2.3.4", "2001:db8::7 ::1"},
		{"both loopbacks", "127.0.0.0/8,::1", false, "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1", "128.0.0.0 ::2"},
		{"a link-local block takes an address of any zone", "fe80::/10", false, "fe80::1 fe80::1%eth0 fe80::1%1", "fec0::1"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			set, err := auth.ParseAddresses(row.list)
			if err != nil {
				t.Fatal(err)
			}
			if set.All() != row.all {
				t.Errorf("All is %v", set.All())
			}
			for _, a := range addrs(row.inside) {
				if !set.Contain(addr(t, a)) {
					t.Errorf("%s is not inside", a)
				}
			}
			for _, a := range addrs(row.out) {
				if set.Contain(addr(t, a)) {
					t.Errorf("%s is inside", a)
				}
			}
			if set.Contain(netip.Addr{}) != row.all {
				t.Errorf("an address that can't be told is inside: %v", !row.all)
			}
		})
	}
	var zero auth.Addresses
	if !zero.All() || !zero.Contain(addr(t, "192.0.2.7")) {
		t.Error("the zero value is not every address")
	}
}

// badLists are refused for an entry that is not one, I8 and P18.
var badLists = map[string]struct{ list, entry string }{
	"a comma alone":                       {",", `""`},
	"a comma at the end":                  {"10.0.0.1,", `""`},
	"a comma at the start":                {",10.0.0.1", `""`},
	"two commas":                          {"10.0.0.1,,10.0.0.2", `""`},
	"a comma after a star":                {"*,", `""`},
	"a word":                              {"localhost", `"localhost"`},
	"a word beside a star":                {"*, localhost", `"localhost"`},
	"spaces for commas":                   {"10.0.0.1 10.0.0.2", `"10.0.0.1 10.0.0.2"`},
	"semicolons for commas":               {"10.0.0.1;10.0.0.2", `"10.0.0.1;10.0.0.2"`},
	"three bytes":                         {"10.0.0", `"10.0.0"`},
	"five bytes":                          {"10.0.0.0.1", `"10.0.0.0.1"`},
	"a byte too large":                    {"10.0.0.256", `"10.0.0.256"`},
	"a byte that may be octal":            {"010.0.0.1", `"010.0.0.1"`},
	"a star in an address":                {"10.0.0.*", `"10.0.0.*"`},
	"a port":                              {"10.0.0.1:80", `"10.0.0.1:80"`},
	"a range":                             {"10.0.0.1-10.0.0.9", `"10.0.0.1-10.0.0.9"`},
	"a mask":                              {"10.0.0.0/255.0.0.0", `"10.0.0.0/255.0.0.0"`},
	"a length too large":                  {"10.0.0.0/33", `"10.0.0.0/33"`},
	"an IPv6 length too large":            {"2001:db8::/129", `"2001:db8::/129"`},
	"a negative length":                   {"10.0.0.0/-1", `"10.0.0.0/-1"`},
	"a length with a zero before":         {"10.0.0.0/08", `"10.0.0.0/08"`},
	"no length":                           {"10.0.0.0/", `"10.0.0.0/"`},
	"a space before the length":           {"10.0.0.0 /8", `"10.0.0.0 /8"`},
	"a short block":                       {"10/8", `"10/8"`},
	"a zone":                              {"fe80::1%eth0", `"fe80::1%eth0"`},
	"a zone in a block":                   {"fe80::%eth0/64", `"fe80::%eth0/64"`},
	"brackets":                            {"[::1]", `"[::1]"`},
	"a good entry, then a bad one":        {"10.0.0.0/8, nonsense", `"nonsense"`},
	"an IPv4 address with an IPv6 length": {"::ffff:10.0.0.0/95", `"::ffff:10.0.0.0/95"`},
	"an IPv4 address in IPv6, short of an IPv4": {"::ffff:10.0.0.0/8", `"::ffff:10.0.0.0/8"`},
}

func TestAddressesRefused(t *testing.T) {
	t.Parallel()
	for name, row := range badLists {
		set, err := auth.ParseAddresses(row.list)
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		if !strings.Contains(err.Error(), row.entry) {
			t.Errorf("%s: the error doesn't name the entry %s: %v", name, row.entry, err)
		}
		if !set.All() && set.Contain(addr(t, "10.0.0.1")) {
			t.Errorf("%s: is refused and yet used", name)
		}
		if _, err := auth.ParseProxies(row.list); err == nil {
			t.Errorf("%s is taken for proxies", name)
		}
	}
}

func proxies(t testing.TB, list string) auth.Proxies {
	t.Helper()
	p, err := auth.ParseProxies(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProxiesTrustNotEverybody: a list of proxies that has every client in it
// would let each choose its own address.
func TestProxiesTrustNotEverybody(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"*", " * ", "10.0.0.1,*", "*,10.0.0.1", "0.0.0.0/0", "::/0", "10.0.0.1, 0.0.0.0/0", "192.0.2.7/0", "::ffff:0:0/96"} {
		if _, err := auth.ParseProxies(list); err == nil || !strings.Contains(err.Error(), "would let every client choose its own address: list the proxies") {
			t.Errorf("%q: %v", list, err)
		}
	}
	for _, list := range []string{"", "  ", "10.0.0.1", "10.0.0.0/8, ::1"} {
		if _, err := auth.ParseProxies(list); err != nil {
			t.Errorf("%q: %v", list, err)
		}
	}
}

// TestClient is P9 and I8: whose word about an address counts.
func TestClient(t *testing.T) {
	t.Parallel()
	const trusted = "10.0.0.0/8, 2001:db8:aaaa::/48"
	rows := []struct {
		name    string
		proxies string
		peer    string
		xff     []string
		realIP  []string
		want    string // "": invalid
	}{
		// Nobody is trusted, or the peer isn't.
		{"with no proxies the peer is the client", "", "192.0.2.7", nil, nil, "192.0.2.7"},
		{"with no proxies headers count for nothing", "", "192.0.2.7", []string{"203.0.113.9"}, []string{"203.0.113.9"}, "192.0.2.7"},
		{"with no proxies nor does loopback's word", "", "127.0.0.1", []string{"203.0.113.9"}, nil, "127.0.0.1"},
		{"an untrusted peer forges X-Forwarded-For", trusted, "192.0.2.7", []string{"127.0.0.1"}, nil, "192.0.2.7"},
		{"an untrusted peer forges X-Real-IP", trusted, "192.0.2.7", nil, []string{"127.0.0.1"}, "192.0.2.7"},
		{"an untrusted peer names a trusted proxy", trusted, "192.0.2.7", []string{"127.0.0.1, 10.0.0.1"}, nil, "192.0.2.7"},
		{"an untrusted peer sends garbage", trusted, "192.0.2.7", []string{"garbage"}, []string{"garbage"}, "192.0.2.7"},
		{"one address beside the trusted block", trusted, "11.0.0.0", []string{"203.0.113.9"}, nil, "11.0.0.0"},
		{"an untrusted peer as mapped IPv6 is unmapped", trusted, "::ffff:192.0.2.7", []string{"203.0.113.9"}, nil, "192.0.2.7"},
		{"an untrusted peer's zone is cut", trusted, "fe80::1%eth0", nil, nil, "fe80::1"},
		{"an unknown peer is nobody", trusted, "", []string{"203.0.113.9"}, []string{"203.0.113.9"}, ""},

		// One proxy.
		{"a proxy tells the client", trusted, "10.0.0.1", []string{"203.0.113.9"}, nil, "203.0.113.9"},
		{"a proxy as mapped IPv6 is trusted", trusted, "::ffff:10.0.0.1", []string{"203.0.113.9"}, nil, "203.0.113.9"},
		{"a proxy on IPv6 tells the client", trusted, "2001:db8:aaaa::1", []string{"2001:db8::9"}, nil, "2001:db8::9"},
		{"a client's own claim stands left, and isn't believed", trusted, "10.0.0.1", []string{"127.0.0.1, 203.0.113.9"}, nil, "203.0.113.9"},
		{"a client claims to be a proxy", trusted, "10.0.0.1", []string{"127.0.0.1, 10.0.0.9, 203.0.113.9"}, nil, "203.0.113.9"},
		{"a client claims nonsense", trusted, "10.0.0.1", []string{"<script>, 203.0.113.9"}, nil, "203.0.113.9"},
		{"a client's own header line comes before the proxy's", trusted, "10.0.0.1", []string{"127.0.0.1", "203.0.113.9"}, nil, "203.0.113.9"},
		{"a client sends many lines", trusted, "10.0.0.1", []string{"127.0.0.1", "::1, 10.0.0.5", "203.0.113.9"}, nil, "203.0.113.9"},
		{"a mapped entry is unmapped", trusted, "10.0.0.1", []string{"::ffff:203.0.113.9"}, nil, "203.0.113.9"},
		{"an entry's zone is cut", trusted, "10.0.0.1", []string{"fe80::9%eth0"}, nil, "fe80::9"},
		{"spaces around entries don't count", trusted, "10.0.0.1", []string{"  127.0.0.1 ,\t203.0.113.9  "}, nil, "203.0.113.9"},
		{"no space after the comma", trusted, "10.0.0.1", []string{"127.0.0.1,203.0.113.9"}, nil, "203.0.113.9"},

		// Several proxies.
		{"a chain of proxies", trusted, "10.0.0.1", []string{"203.0.113.9, 10.0.0.3, 10.0.0.2"}, nil, "203.0.113.9"},
		{"a chain of proxies in several lines", trusted, "10.0.0.1", []string{"203.0.113.9", "10.0.0.3", "10.0.0.2"}, nil, "203.0.113.9"},
		{"a chain on both protocols", trusted, "10.0.0.1", []string{"203.0.113.9, 2001:db8:aaaa::3, ::ffff:10.0.0.2"}, nil, "203.0.113.9"},
		{"a claim before the chain", trusted, "10.0.0.1", []string{"127.0.0.1, 203.0.113.9, 10.0.0.2"}, nil, "203.0.113.9"},
		{"a chain behind an untrusted hop ends there", trusted, "10.0.0.1", []string{"203.0.113.9, 198.51.100.1, 10.0.0.2"}, nil, "198.51.100.1"},
		{"nothing but proxies is the peer's own request", trusted, "10.0.0.1", []string{"10.0.0.3, 10.0.0.2"}, nil, "10.0.0.1"},
		{"no header is the peer's own request", trusted, "10.0.0.1", nil, nil, "10.0.0.1"},

		// Ports, which some proxies add.
		{"an entry with a port", trusted, "10.0.0.1", []string{"203.0.113.9:1234"}, nil, "203.0.113.9"},
		{"an IPv6 entry with a port", trusted, "10.0.0.1", []string{"[2001:db8::9]:1234"}, nil, "2001:db8::9"},
		{"a proxy with a port in the chain", trusted, "10.0.0.1", []string{"203.0.113.9:1, 10.0.0.2:2"}, nil, "203.0.113.9"},

		// An entry that is none ends the search: nobody knows who stands left of it.
		{"garbage", trusted, "10.0.0.1", []string{"garbage"}, nil, ""},
		{"garbage doesn't let an older entry count", trusted, "10.0.0.1", []string{"203.0.113.9, garbage"}, nil, ""},
		{"garbage in the last line", trusted, "10.0.0.1", []string{"203.0.113.9", "garbage"}, nil, ""},
		{"garbage behind proxies", trusted, "10.0.0.1", []string{"203.0.113.9, unknown, 10.0.0.2"}, nil, ""},
		{"garbage doesn't let X-Real-IP count", trusted, "10.0.0.1", []string{"garbage"}, []string{"203.0.113.9"}, ""},
		{"an empty header", trusted, "10.0.0.1", []string{""}, nil, ""},
		{"a comma at the end", trusted, "10.0.0.1", []string{"203.0.113.9,"}, nil, ""},
		{"a comma alone", trusted, "10.0.0.1", []string{","}, nil, ""},
		{"brackets without a port", trusted, "10.0.0.1", []string{"[2001:db8::9]"}, nil, ""},
		{"an obfuscated name", trusted, "10.0.0.1", []string{"_hidden"}, nil, ""},
		{"a name", trusted, "10.0.0.1", []string{"localhost"}, nil, ""},
		{"a port that is none", trusted, "10.0.0.1", []string{"203.0.113.9:http"}, nil, ""},
		{"an octal byte", trusted, "10.0.0.1", []string{"0177.0.0.1"}, nil, ""},
		{"quotes", trusted, "10.0.0.1", []string{`"203.0.113.9"`}, nil, ""},
		{"semicolons", trusted, "10.0.0.1", []string{"203.0.113.9; 10.0.0.2"}, nil, ""},

		// X-Real-IP.
		{"X-Real-IP where there is no X-Forwarded-For", trusted, "10.0.0.1", nil, []string{"203.0.113.9"}, "203.0.113.9"},
		{"X-Real-IP with a port", trusted, "10.0.0.1", nil, []string{"203.0.113.9:80"}, "203.0.113.9"},
		{"X-Real-IP between spaces", trusted, "10.0.0.1", nil, []string{" ::ffff:203.0.113.9 "}, "203.0.113.9"},
		{"X-Real-IP where X-Forwarded-For has proxies alone", trusted, "10.0.0.1", []string{"10.0.0.2"}, []string{"203.0.113.9"}, "203.0.113.9"},
		{"X-Forwarded-For wins over X-Real-IP", trusted, "10.0.0.1", []string{"203.0.113.9"}, []string{"127.0.0.1"}, "203.0.113.9"},
		{"X-Real-IP that is garbage", trusted, "10.0.0.1", nil, []string{"garbage"}, ""},
		{"X-Real-IP with a list", trusted, "10.0.0.1", nil, []string{"127.0.0.1, 203.0.113.9"}, ""},
		{"X-Real-IP twice, the client's own among them", trusted, "10.0.0.1", nil, []string{"127.0.0.1", "203.0.113.9"}, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got := proxies(t, row.proxies).Client(addr(t, row.peer), row.xff, row.realIP)
			if want := addr(t, row.want); got != want {
				t.Errorf("the client is %v, want %v", got, want)
			}
		})
	}
}

// TestClientCost: a header full of commas costs no more than its length, P15.
func TestClientCost(t *testing.T) {
	t.Parallel()
	p := proxies(t, "10.0.0.0/8")
	hops := strings.Repeat("10.0.0.1,", 100_000) + "10.0.0.1"
	if got := p.Client(addr(t, "10.0.0.1"), []string{hops}, nil); got != addr(t, "10.0.0.1") {
		t.Errorf("the client is %v", got)
	}
}

// FuzzClient: an untrusted peer's headers never matter; and whatever a client
// sends to a trusted proxy, the address that the proxy appends is the client.
func FuzzClient(f *testing.F) {
	for _, seed := range []string{"", "127.0.0.1", "10.0.0.1", "a, b", "10.0.0.2, 203.0.113.9", ",,,", "::1%eth0", "[::1]:80", "\x00", "::ffff:10.0.0.1", "203.0.113.9:80"} {
		f.Add(seed, seed, seed)
		f.Add("127.0.0.1", seed, "10.0.0.9")
	}
	f.Fuzz(func(t *testing.T, xff, more, realIP string) {
		p := proxies(t, "10.0.0.0/8, ::1")
		client := addr(t, "203.0.113.9")
		if got := p.Client(client, []string{xff, more}, []string{realIP}); got != client {
			t.Errorf("an untrusted peer's headers %q, %q, %q make it %v", xff, more, realIP, got)
		}
		for how, lines := range map[string][]string{
			"in a line of its own":   {xff, more, client.String()},
			"in the last line":       {xff, more + ", " + client.String()},
			"without a space":        {xff + "," + more + "," + client.String()},
			"behind another proxy's": {xff, more, client.String() + ", 10.0.0.2"},
			"with a port":            {xff, more, client.String() + ":4711"},
		} {
			if got := p.Client(addr(t, "10.0.0.1"), lines, []string{realIP}); got != client {
				t.Errorf("a proxy appends the client %s of %q, %q, %q, and it is %v", how, xff, more, realIP, got)
			}
		}
		got := p.Client(addr(t, "::1"), []string{xff, more}, []string{realIP})
		if got.Is4In6() || got.Zone() != "" {
			t.Errorf("the client %v is not in its plain form", got)
		}
	})
}

// FuzzParseAddresses: what is taken means what netip says of its entries, and
// no list that is refused contains anything.
func FuzzParseAddresses(f *testing.F) {
	for _, row := range badLists {
		f.Add(row.list)
	}
	for _, list := range []string{"", "*", "10.0.0.1", "10.0.0.0/8, ::1", "::ffff:10.0.0.0/104", " 10.0.0.1 , * "} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		set, err := auth.ParseAddresses(list)
		if err != nil {
			return
		}
		star := strings.TrimSpace(list) == ""
		for entry := range strings.SplitSeq(list, ",") {
			entry = strings.TrimSpace(entry)
			star = star || entry == "*"
			at := strings.TrimSuffix(entry, "/"+entry[strings.LastIndexByte(entry, '/')+1:])
			if a, err := netip.ParseAddr(at); err == nil && !set.Contain(a) {
				t.Errorf("%q doesn't contain its own %s", list, a)
			}
		}
		if set.All() != star {
			t.Errorf("%q is every address: %v", list, set.All())
		}
		if !star && set.Contain(netip.Addr{}) {
			t.Errorf("%q contains an address that can't be told", list)
		}
	})
}
