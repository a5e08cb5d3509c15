package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/secret"
)

// localDoor is one machine's door, for the holder of token as root.
func localDoor(token string) *api.LocalDoor {
	source := &auth.Configured{}
	source.Add(secret.DigestOf(token), auth.RootCaller())
	return &api.LocalDoor{Verifier: auth.NewVerifier(source), Flood: &limit.Flood{Now: halfPast}}
}

// from sends r to s as if its TCP peer were at addr.
func (s *site) from(addr string, r *http.Request) reply {
	r.RemoteAddr = addr
	return s.send(r)
}

// P8, I10: somebody who tries tokens is cut short, and who holds one isn't,
// though both come from one address.
func TestFloodLocksNobodyOut(t *testing.T) {
	t.Parallel()
	const address, neighbour = "198.51.100.4:1000", "198.51.100.5:1000"
	s := newSite(t, behind(localDoor("right")))
	attack := func() reply { return s.from(address, request("GET", "/agents", "Authorization: Bearer wrong")) }
	victim := func(addr string) reply { return s.from(addr, request("GET", "/agents", "X-Api-Key: right")) }

	for i := range 20 {
		if got := attack(); got.Status != 401 {
			t.Fatalf("failure %d is answered %d, want 401", i+1, got.Status)
		}
	}
	for range 50 {
		got := attack()
		if got.Status != 429 || got.problem(t).Error != "Rate limit exceeded" {
			t.Fatalf("a flood is answered %d %q, want 429", got.Status, got.problem(t).Error)
		}
		if h := got.Header.Get("Retry-After"); h != "60" {
			t.Fatalf("Retry-After: %q, want the 60 s until the minute ends", h)
		}
		if got.Header.Get("WWW-Authenticate") != "" || got.Header.Get("RateLimit") != "" {
			t.Fatalf("a flood is told of challenges or limits: %v", got.Header)
		}
		if got := victim(address); got.Status != 200 {
			t.Fatalf("a valid token from the same address is answered %d", got.Status)
		}
	}
	if got := s.from(address, request("GET", "/agents")); got.Status != 429 {
		t.Errorf("no credential at all, from there: %d, want 429", got.Status)
	}
	if got := s.from(address, request("GET", "/health")); got.Status != 200 {
		t.Errorf("a public route from there: %d", got.Status)
	}
	if got := s.from(neighbour, request("GET", "/agents")); got.Status != 401 {
		t.Errorf("another address: %d, want 401", got.Status)
	}
}

// What the store's outage refuses is no failure of the caller's.
func TestOutageIsNoFlood(t *testing.T) {
	t.Parallel()
	door := localDoor("right")
	door.Verifier = auth.NewVerifier(downSource{})
	s := newSite(t, behind(door))
	for range 30 {
		if got := s.ask("GET", "/agents", "X-Api-Key: right"); got.Status != 503 || got.Header.Get("Retry-After") != "5" {
			t.Fatalf("%d, Retry-After %q", got.Status, got.Header.Get("Retry-After"))
		}
	}
	if got := s.ask("GET", "/agents"); got.Status != 401 {
		t.Errorf("no credential during an outage: %d, want 401", got.Status)
	}
}

func TestClosedDoor(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"the token as bearer", []string{"Authorization: Bearer right"}, 200},
		{"the token as API key", []string{"X-Api-Key: right"}, 200},
		{"both", []string{"Authorization: bearer  right", "X-API-KEY: right"}, 200},
		{"none", nil, 401},
		{"a wrong one", []string{"Authorization: Bearer wrong"}, 401},
		{"two that differ", []string{"Authorization: Bearer right", "X-Api-Key: wrong"}, 401},
		{"a repeated header", []string{"X-Api-Key: right", "X-Api-Key: right"}, 401},
		{"another scheme", []string{"Authorization: Basic right"}, 401},
		{"in a cookie", []string{"Cookie: token=right"}, 401},
		{"its digest", []string{"X-Api-Key: " + hexDigest("right")}, 401},
	} {
		if got := newSite(t, behind(localDoor("right"))).ask("GET", "/agents", row.headers...); got.Status != row.status {
			t.Errorf("%s: %d, want %d", row.name, got.Status, row.status)
		}
	}
	if got := newSite(t, behind(localDoor("right"))).ask("GET", "/agents?token=right&api_key=right&access_token=right"); got.Status != 401 {
		t.Errorf("in the query: %d, want 401", got.Status)
	}
}

// API_AUTH=disabled.
func TestOpenDoor(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		request string
		headers []string
		status  int
		caller  string
	}{
		{"who shows nothing is anonymous", "GET /agents", nil, 200, "anonymous"},
		{"and may chat", "POST /chat", nil, 200, "anonymous"},
		{"and may not administer", "GET /keys", nil, 403, "anonymous"},
		{"a right token is still somebody", "GET /keys", []string{"X-Api-Key: right"}, 200, "root"},
		{"a wrong token is refused", "GET /agents", []string{"X-Api-Key: wrong"}, 401, ""},
		{"another scheme is refused", "GET /agents", []string{"Authorization: Basic right"}, 401, ""},
		{"an empty token is refused", "GET /agents", []string{"X-Api-Key: "}, 401, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			door := localDoor("right")
			door.Open = true
			s := newSite(t, behind(door))
			method, target, _ := strings.Cut(row.request, " ")
			r := request(method, target, row.headers...)
			r.Host = "localhost:8080"
			if got := s.send(r); got.Status != row.status {
				t.Errorf("status %d, want %d: %s", got.Status, row.status, got.Body)
			}
			if line := s.log.only(t); line["caller"] != row.caller {
				t.Errorf("caller %v, want %q", line["caller"], row.caller)
			}
		})
	}
}

// The anonymous share one limit, wherever they come from.
func TestAnonymousShareALimit(t *testing.T) {
	t.Parallel()
	door := localDoor("right")
	door.Open, door.OpenHosts = true, true
	s := newSite(t, behind(door), func(cfg *api.Config) { cfg.RateLimit = 2 })
	var statuses []int
	for _, addr := range []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"} {
		statuses = append(statuses, s.from(addr, request("GET", "/agents")).Status)
	}
	if !slices.Equal(statuses, []int{200, 200, 429}) {
		t.Errorf("statuses %v", statuses)
	}
}

// I14: a page on the web that has its own name point at 127.0.0.1 sends that name.
func TestOpenDoorAnswersToLoopbackHostsOnly(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		host    string
		answers bool
	}{
		{"localhost", true},
		{"localhost:8080", true},
		{"LOCALHOST", true},
		{"LocalHost:8080", true},
		{"localhost.", true},
		{"localhost.:8080", true},
		{"127.0.0.1", true},
		{"127.0.0.1:8080", true},
		{"127.8.9.10:80", true},
		{"[::1]", true},
		{"[::1]:8080", true},
		{"[::ffff:127.0.0.1]:8080", true},
		{"", false},
		{":8080", false},
		{"evil.example", false},
		{"evil.example:8080", false},
		{"127.0.0.1.evil.com", false},
		{"127.0.0.1.evil.com:8080", false},
		{"localhost.evil.com", false},
		{"evil-localhost", false},
		{"localhost..", false},
		{"foo.localhost", false},
		{"127.0.0.1.nip.io", false},
		{"127.1", false},
		{"0x7f.1", false},
		{"2130706433", false},
		{"127.0.0.1.", false},
		{"0.0.0.0:8080", false},
		{"[::]:8080", false},
		{"192.168.1.7:8080", false},
		{"[::ffff:192.0.2.7]", false},
		{"localhost@evil.com", false},
		{"evil.com@localhost", false},
		{"evil.com#localhost", false},
		{"localhost evil.com", false},
		{"locälhost", false},
	} {
		for _, token := range []string{"", "right", "wrong"} {
			door := localDoor("right")
			door.Open = true
			r := request("GET", "/agents")
			if token != "" {
				r.Header.Set("X-Api-Key", token)
			}
			r.Host = row.host
			want := map[string]int{"": 200, "right": 200, "wrong": 401}[token]
			if !row.answers {
				want = 403
			}
			got := newSite(t, behind(door)).send(r)
			if got.Status != want {
				t.Errorf("Host %q with token %q: %d, want %d", row.host, token, got.Status, want)
			}
			if want == 403 && got.problem(t).Error != "Host not allowed" {
				t.Errorf("Host %q: %q", row.host, got.problem(t).Error)
			}
		}
	}
	for name, change := range map[string]func(*api.LocalDoor){
		"a closed door":                  func(d *api.LocalDoor) {},
		"a door that is open to any":     func(d *api.LocalDoor) { d.Open, d.OpenHosts = true, true },
		"OpenHosts alone opens no door.": func(d *api.LocalDoor) { d.OpenHosts = true },
	} {
		door := localDoor("right")
		change(door)
		r := request("GET", "/agents", "X-Api-Key: right")
		r.Host = "postern.example"
		if got := newSite(t, behind(door)).send(r); got.Status != 200 {
			t.Errorf("%s asks for a loopback Host: %d", name, got.Status)
		}
	}
	door := localDoor("right")
	door.OpenHosts = true
	if got := newSite(t, behind(door)).ask("GET", "/agents"); got.Status != 401 {
		t.Errorf("OpenHosts alone opened the door: %d", got.Status)
	}
}

// P9, I8: whose word about the address is taken, and what the rule says of it.
func TestLocalDoorAddresses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		peer    string
		proxies string
		headers []string
		ip      string
		status  int // the rule is 203.0.113.0/24
	}{
		{"the peer is inside", "203.0.113.9:1234", "", nil, "203.0.113.9", 200},
		{"the peer is outside", "198.51.100.1:1234", "", nil, "198.51.100.1", 403},
		{"the peer is mapped into IPv6", "[::ffff:203.0.113.9]:1234", "", nil, "203.0.113.9", 200},
		{"a forged header doesn't help", "198.51.100.1:1234", "", []string{"X-Forwarded-For: 203.0.113.9", "X-Real-Ip: 203.0.113.9"}, "198.51.100.1", 403},
		{"nor does it hurt", "203.0.113.9:1234", "", []string{"X-Forwarded-For: 198.51.100.1"}, "203.0.113.9", 200},
		{"nor beside a proxy that isn't the peer", "198.51.100.1:1234", "192.0.2.1", []string{"X-Forwarded-For: 203.0.113.9"}, "198.51.100.1", 403},
		{"a proxy's word counts", "192.0.2.1:1234", "192.0.2.1", []string{"X-Forwarded-For: 203.0.113.9"}, "203.0.113.9", 200},
		{"its last word alone", "192.0.2.1:1234", "192.0.2.1", []string{"X-Forwarded-For: 203.0.113.9, 198.51.100.1"}, "198.51.100.1", 403},
		{"its last header's", "192.0.2.1:1234", "192.0.2.1", []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 198.51.100.1"}, "198.51.100.1", 403},
		{"X-Real-IP without the other", "192.0.2.1:1234", "192.0.2.1", []string{"X-Real-Ip: 203.0.113.9"}, "203.0.113.9", 200},
		{"a proxy that says nonsense", "192.0.2.1:1234", "192.0.2.1", []string{"X-Forwarded-For: unknown"}, "unknown", 403},
		{"a peer that is no address", "@", "", nil, "unknown", 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			door := localDoor("right")
			var err1, err2 error
			door.Addresses, err1 = auth.ParseAddresses("203.0.113.0/24")
			door.Proxies, err2 = auth.ParseProxies(row.proxies)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			s := newSite(t, behind(door))
			got := s.from(row.peer, request("GET", "/agents", append(row.headers, "X-Api-Key: right")...))
			if got.Status != row.status {
				t.Errorf("status %d, want %d", got.Status, row.status)
			}
			if line := s.log.only(t); line["ip"] != row.ip {
				t.Errorf("ip %v, want %s", line["ip"], row.ip)
			}
			if got := s.from(row.peer, request("GET", "/agents", append(row.headers, "X-Api-Key: wrong")...)); got.Status != 401 {
				t.Errorf("a wrong token is %d there, want 401: the credential comes first", got.Status)
			}
		})
	}
}

// The address rule holds for an open door too.
func TestOpenDoorKeepsItsAddressRule(t *testing.T) {
	t.Parallel()
	door := localDoor("right")
	door.Open, door.OpenHosts = true, true
	door.Addresses, _ = auth.ParseAddresses("203.0.113.0/24")
	if got := newSite(t, behind(door)).from("198.51.100.1:1", request("GET", "/agents")); got.Status != 403 {
		t.Errorf("status %d, want 403", got.Status)
	}
}

func TestLocalRequestIDs(t *testing.T) {
	t.Parallel()
	s := newSite(t, behind(localDoor("right")))
	seen := map[string]bool{}
	for range 100 {
		got := s.ask("GET", "/agents", "X-Request-Id: theirs")
		id := got.Header.Get("X-Request-Id")
		if len(id) < 26 || seen[id] || got.problem(t).RequestID != id {
			t.Fatalf("request id %q (body %q): want 130 random bits, in both", id, got.problem(t).RequestID)
		}
		seen[id] = true
	}
}

// After the minute the guard has forgotten.
func TestFloodEnds(t *testing.T) {
	t.Parallel()
	now := halfPast()
	door := localDoor("right")
	door.Flood = &limit.Flood{Now: func() time.Time { return now }}
	s := newSite(t, behind(door))
	for range 25 {
		s.ask("GET", "/agents")
	}
	now = now.Add(45 * time.Second)
	if got := s.ask("GET", "/agents"); got.Status != 429 || got.Header.Get("Retry-After") != "15" {
		t.Errorf("after 45 s: %d, Retry-After %q, want 429 and 15", got.Status, got.Header.Get("Retry-After"))
	}
	now = now.Add(15 * time.Second)
	if got := s.ask("GET", "/agents"); got.Status != 401 {
		t.Errorf("after a minute: %d, want 401", got.Status)
	}
}
