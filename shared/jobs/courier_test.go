package jobs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/jobs"
)

// courierDNS is a name server on loopback, and a resolver that asks it. answer
// has a name's addresses at its nth look-up, from 1; none: there is no such name.
func courierDNS(t *testing.T, answer func(name string, n int) []string) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { server.Close(); <-done })
	go func() {
		defer close(done)
		asked := map[string]int{}
		for packet := make([]byte, 1500); ; {
			n, peer, err := server.ReadFrom(packet)
			if err != nil {
				return
			}
			server.WriteTo(courierReply(packet[:n], asked, answer), peer)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// courierReply answers a query of one question (RFC 1035 §4) for A or AAAA.
func courierReply(query []byte, asked map[string]int, answer func(string, int) []string) []byte {
	var labels []string
	at := 12
	for query[at] != 0 {
		labels = append(labels, string(query[at+1:at+1+int(query[at])]))
		at += 1 + int(query[at])
	}
	question := query[12 : at+5] // the name's end, type, class
	name, kind := strings.Join(labels, "."), binary.BigEndian.Uint16(query[at+1:])

	asked[fmt.Sprint(name, kind)]++
	all := answer(name, asked[fmt.Sprint(name, kind)])
	var answers [][]byte
	for _, s := range all {
		a := netip.MustParseAddr(s)
		if a.Is4() && kind == 1 || a.Is6() && kind == 28 {
			answers = append(answers, a.AsSlice())
		}
	}
	flags := byte(0x80)
	if len(all) == 0 {
		flags = 0x83 // no such name
	}
	reply := append([]byte{query[0], query[1], 0x81, flags, 0, 1, 0, byte(len(answers)), 0, 0, 0, 0}, question...)
	for _, a := range answers {
		reply = append(reply, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(a)))
		reply = append(reply, a...)
	}
	return reply
}

// courierNames gives every name under example.com and example.org one address.
func courierNames(t *testing.T, address ...string) *net.Resolver {
	t.Helper()
	return courierDNS(t, func(name string, _ int) []string {
		if strings.HasSuffix(name, ".example.com") || strings.HasSuffix(name, ".example.org") {
			return address
		}
		return nil
	})
}

// courierCall is a request as a receiver saw it.
type courierCall struct {
	method, host, uri, body string
	header                  http.Header
}

// courierSite is a receiver on loopback, whose certificate is for *.example.com,
// and a Courier that finds it there.
type courierSite struct {
	jobs.Courier
	port string

	mu    sync.Mutex
	calls []courierCall
}

// courierServe answers by answer, after the body is read.
func courierServe(t *testing.T, answer http.HandlerFunc, options ...func(*httptest.Server)) *courierSite {
	t.Helper()
	s := &courierSite{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.calls = append(s.calls, courierCall{r.Method, r.Host, r.RequestURI, string(body), r.Header.Clone()})
		s.mu.Unlock()
		answer(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, o := range options {
		o(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	s.aim(t, server.Listener.Addr(), server.Certificate())
	return s
}

// courierRaw hands every connection to talk, without TLS.
func courierRaw(t *testing.T, talk func(net.Conn)) *courierSite {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	t.Cleanup(func() { l.Close(); open.Wait() })
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { defer conn.Close(); talk(conn) })
		}
	})
	s := &courierSite{}
	s.aim(t, l.Addr(), nil)
	return s
}

// courierTLS is courierRaw with TLS. talk begins after the request's header.
func courierTLS(t *testing.T, talk func(net.Conn)) *courierSite {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	s := courierRaw(t, func(plain net.Conn) {
		conn := tls.Server(plain, &tls.Config{Certificates: certified.TLS.Certificates})
		header, buffer := []byte{}, make([]byte, 4096)
		for !bytes.Contains(header, []byte("\r\n\r\n")) {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			header = append(header, buffer[:n]...)
		}
		talk(courierConn{conn, string(header)})
	})
	s.Roots.AddCert(certified.Certificate())
	return s
}

// courierConn is a connection and the beginning of what came over it.
type courierConn struct {
	net.Conn
	request string
}

func (s *courierSite) aim(t *testing.T, a net.Addr, certificate *x509.Certificate) {
	t.Helper()
	s.Roots = x509.NewCertPool()
	if certificate != nil {
		s.Roots.AddCert(certificate)
	}
	s.port = fmt.Sprint(a.(*net.TCPAddr).Port)
	s.Resolver = courierNames(t, "127.0.0.1")
	s.Permit = netip.Addr.IsLoopback
}

// received is what came so far.
func (s *courierSite) received() []courierCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// url is the site's, with something to hide.
func (s *courierSite) url() string {
	return "https://hooks.example.com:" + s.port + "/canary-path?canary-query=1"
}

func courierTo(t *testing.T, url string) *jobs.Callback {
	t.Helper()
	cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: url, Secret: "canary-secret"})
	if err != nil {
		t.Fatal(detailOf(err))
	}
	return cb
}

// courierBubble is synctest.Test for what looks names up. Package net makes a
// channel at its first look-up that must not belong to a bubble, so there is one
// before.
func courierBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	nobody := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }}
	nobody.LookupHost(t.Context(), "hooks.example.com")
	synctest.Test(t, f)
}

// send delivers something to url in a bubble: pauses take no time there, and how
// long they were is exact; the network goes on outside of it.
func (s *courierSite) send(t *testing.T, cb *jobs.Callback) (took time.Duration, err error) {
	t.Helper()
	courierBubble(t, func(t *testing.T) {
		before := time.Now()
		err = s.Send(t.Context(), cb, "canary-delivery", http.Header{"X-Workflow-Job-Id": {"canary-job"}}, []byte(`{"canary":"body"}`))
		took = time.Since(before)
	})
	courierQuiet(t, err)
	return took, err
}

// courierQuiet finds nothing of the callback but its host in an error, and nothing
// that the receiver said (P4).
func courierQuiet(t *testing.T, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "hooks.example.")) {
		t.Errorf("the error %q names too much, or no host", err)
	}
}

func courierStatus(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// What a receiver is sent.
func TestCourierSends(t *testing.T) {
	t.Parallel()
	s := courierServe(t, courierStatus(http.StatusNoContent))
	given := http.Header{
		"X-Workflow-Job-Id": {"j1"}, "X-Postern-Delivery": {"another"}, "User-Agent": {"another"}, "Content-Type": {"text/plain"}, "X-Postern-Signature": {"another"},
	}
	kept := given.Clone()
	// GitHub's example of a signature, made by others:
	// https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
	cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: s.url(), Secret: "It's a Secret to Everybody"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), cb, "d1", given, []byte("Hello, World!")); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(given) != fmt.Sprint(kept) {
		t.Errorf("the caller's header was changed to %v", given)
	}
	calls := s.received()
	if len(calls) != 1 {
		t.Fatalf("%d calls", len(calls))
	}
	const signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	got := fmt.Sprint(calls[0].method, " ", calls[0].host, " ", calls[0].uri, " ", calls[0].body, " ", calls[0].header)
	want := fmt.Sprint("POST hooks.example.com:", s.port, " /canary-path?canary-query=1 Hello, World! ", http.Header{
		"Connection": {"close"}, "Content-Length": {"13"}, "Content-Type": {"application/json"}, "User-Agent": {"postern"}, "X-Workflow-Job-Id": {"j1"},
		"X-Postern-Delivery": {"d1"}, "X-Postern-Signature": {signature}, "X-Workflow-Signature": {signature},
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Without a secret nothing is signed, and no header is needed.
func TestCourierUnsigned(t *testing.T) {
	t.Parallel()
	s := courierServe(t, courierStatus(http.StatusOK))
	cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: s.url(), Secret: ""})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), cb, "d1", nil, nil); err != nil {
		t.Fatal(err)
	}
	header := s.received()[0].header
	if header.Get("X-Postern-Delivery") != "d1" || header["X-Postern-Signature"] != nil || header["X-Workflow-Signature"] != nil {
		t.Errorf("%v", header)
	}
}

// Three tries, at 0, 2 and 10 s, each the same in every word.
func TestCourierTries(t *testing.T) {
	t.Parallel()
	const all = 10 * time.Second
	for _, row := range []struct {
		name    string
		answers []int
		tries   int
		took    time.Duration
		fails   bool
	}{
		{"200", []int{200}, 1, 0, false},
		{"201", []int{201}, 1, 0, false},
		{"204", []int{204}, 1, 0, false},
		{"299", []int{299}, 1, 0, false},
		{"the second is taken", []int{503, 200}, 2, 2 * time.Second, false},
		{"the third is taken", []int{429, 500, 202}, 3, all, false},
		{"300", []int{300, 300, 300, 200}, 3, all, true},
		{"304", []int{304, 304, 304, 200}, 3, all, true},
		{"400", []int{400, 400, 400, 200}, 3, all, true},
		{"404", []int{404, 404, 404, 200}, 3, all, true},
		{"410", []int{410, 410, 410, 200}, 3, all, true},
		{"500", []int{500, 500, 500, 200}, 3, all, true},
		{"999", []int{999, 999, 999, 200}, 3, all, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var s *courierSite
			s = courierServe(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Said", "canary")
				w.WriteHeader(row.answers[len(s.received())-1])
			})
			took, err := s.send(t, courierTo(t, s.url()))
			calls := s.received()
			if len(calls) != row.tries || took != row.took || (err != nil) != row.fails {
				t.Errorf("%d tries in %v: %v; want %d in %v", len(calls), took, err, row.tries, row.took)
			}
			if row.fails && !strings.Contains(err.Error(), fmt.Sprint("status ", row.answers[2])) {
				t.Errorf("%v doesn't say the status", err)
			}
			for _, call := range calls {
				if fmt.Sprint(call) != fmt.Sprint(calls[0]) || call.header.Get("X-Postern-Delivery") != "canary-delivery" {
					t.Errorf("a try is %v, the first was %v", call, calls[0])
				}
			}
		})
	}
}

// I13: no redirect is followed, to nowhere.
func TestI13Redirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, location := range map[string]string{
			"the same host": "/canary-other", "metadata": "http://169.254.169.254/canary", "nonsense": "https://%canary",
			"loopback": "http://127.0.0.1:%s/canary-other", "another name": "https://other.example.com:%s/canary-other",
		} {
			t.Run(fmt.Sprint(status, " to ", name), func(t *testing.T) {
				t.Parallel()
				var s *courierSite
				s = courierServe(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", strings.Replace(location, "%s", s.port, 1))
					w.Header().Set("Set-Cookie", "a=canary")
					w.WriteHeader(status)
				})
				_, err := s.send(t, courierTo(t, s.url()))
				if err == nil || !strings.Contains(err.Error(), fmt.Sprint("status ", status)) {
					t.Errorf("%v", err)
				}
				calls := s.received()
				if len(calls) != 3 {
					t.Errorf("%d calls", len(calls))
				}
				for _, call := range calls {
					if call.method != "POST" || call.uri != "/canary-path?canary-query=1" || call.header["Cookie"] != nil {
						t.Errorf("called %v", call)
					}
				}
			})
		}
	}
}

// courierIPv6 reports whether there are sockets of IPv6.
func courierIPv6() bool {
	conn, err := net.Dial("udp6", "[::1]:9") // sends nothing
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.EAFNOSUPPORT)
}

// I13: a public name of a private address. By default nothing is connected, and
// nothing tried again.
func TestI13PrivateAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "169.254.169.254", "192.168.0.1", "100.100.100.200", "168.63.129.16", "255.255.255.255",
		"::1", "::", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::1",
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(address, ":") && !courierIPv6() {
				t.Skip("this system has no IPv6: the socket fails before it is checked")
			}
			s := courierRaw(t, func(net.Conn) { t.Error("it was connected to") })
			s.Permit, s.Resolver = nil, courierNames(t, address)
			took, err := s.send(t, courierTo(t, s.url()))
			if err == nil || !strings.Contains(err.Error(), "no callback may go") || took != 0 {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

// I13, DNS rebinding: a name means an address that is permitted when it is first
// looked up (127.0.0.2 is that here, where nobody listens), and a private one
// (where somebody does) from then on. What was looked up is what is connected to,
// and it is checked again in the next try.
func TestI13Rebinding(t *testing.T) {
	t.Parallel()
	s := courierServe(t, courierStatus(200))
	s.Resolver = courierDNS(t, func(name string, n int) []string {
		switch {
		case name != "hooks.example.com":
			return nil
		case n == 1:
			return []string{"127.0.0.2"}
		default:
			return []string{"127.0.0.1"}
		}
	})
	var seen []string
	s.Permit = func(a netip.Addr) bool {
		seen = append(seen, a.String())
		return a.String() == "127.0.0.2"
	}
	took, err := s.send(t, courierTo(t, s.url()))
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:"+s.port+", where no callback may go") || took != 2*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	if fmt.Sprint(seen) != "[127.0.0.2 127.0.0.1]" || len(s.received()) != 0 {
		t.Errorf("connected to %v, which received %v", seen, s.received())
	}
}

// I13: a connection isn't kept from one try to the next, nor to the next callback:
// it would not be checked.
func TestI13EveryTryIsChecked(t *testing.T) {
	t.Parallel()
	var s *courierSite
	s = courierServe(t, func(w http.ResponseWriter, _ *http.Request) {
		if len(s.received()) == 1 {
			w.WriteHeader(503)
		}
	})
	checked := 0
	s.Permit = func(netip.Addr) bool { checked++; return checked < 3 }
	if _, err := s.send(t, courierTo(t, s.url())); err != nil || checked != 2 {
		t.Errorf("%v after %d checks", err, checked)
	}
	if _, err := s.send(t, courierTo(t, s.url())); err == nil || checked != 3 || len(s.received()) != 2 {
		t.Errorf("%v after %d checks and %d calls", err, checked, len(s.received()))
	}
}

// I13: a name of several addresses. Those that are permitted are enough; the
// others are not connected to.
func TestI13SeveralAddresses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		addresses []string
		arrives   bool
	}{
		{"a private one last", []string{"127.0.0.1", "10.0.0.1"}, true},
		{"a private one first", []string{"10.0.0.1", "169.254.169.254", "127.0.0.1"}, true},
		{"a private one of IPv6", []string{"::1", "127.0.0.1"}, true},
		{"none but private ones", []string{"169.254.169.254", "10.0.0.1"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := courierServe(t, courierStatus(200))
			s.Resolver = courierNames(t, row.addresses...)
			s.Permit = func(a netip.Addr) bool { return a.String() == "127.0.0.1" }
			took, err := s.send(t, courierTo(t, s.url()))
			if (err == nil) != row.arrives || len(s.received()) > 0 != row.arrives || took != 0 {
				t.Errorf("%v after %v, %d calls", err, took, len(s.received()))
			}
		})
	}
}

// I13: a stored callback is read as strictly as a caller's. Nothing is looked up.
func TestI13StoredURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "http://hooks.example.com/canary", "https://canary@hooks.example.com/", "https:///canary", "https://localhost/canary", "%canary", "https://127.0.0.1/canary"} {
		c := jobs.Courier{Permit: func(netip.Addr) bool { return true }, Resolver: courierDNS(t, func(string, int) []string {
			t.Errorf("%q is looked up", url)
			return nil
		})}
		err := c.Send(t.Context(), jobs.CourierStored(url, "canary"), "d", nil, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "callback: its URL ") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// Receivers that don't answer as they should. All are tried three times, and
// nothing that they say is repeated.
func TestCourierBadReceivers(t *testing.T) {
	t.Parallel()
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			uri := strings.Fields(c.(courierConn).request)[1]
			io.WriteString(c, strings.ReplaceAll(text, "URI", uri))
			c.(courierConn).Conn.(*tls.Conn).CloseWrite()
			io.Copy(io.Discard, c)
		}
	}
	for _, row := range []struct {
		name, want string
		site       func(*testing.T) *courierSite
	}{
		{"HTTP where TLS should be", "does not speak TLS and HTTP", func(t *testing.T) *courierSite {
			return courierRaw(t, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 canary\r\n\r\n")
				io.Copy(io.Discard, c)
			})
		}},
		{"a connection that is closed at once", "callback to", func(t *testing.T) *courierSite {
			return courierRaw(t, func(net.Conn) {})
		}},
		{"no HTTP", "does not speak TLS and HTTP", func(t *testing.T) *courierSite { return courierTLS(t, say("URI canary\r\n\r\n")) }},
		{"nothing", "does not speak TLS and HTTP", func(t *testing.T) *courierSite { return courierTLS(t, say("")) }},
		{"a status that is no number", "does not speak TLS and HTTP", func(t *testing.T) *courierSite { return courierTLS(t, say("HTTP/1.1 2xx URI\r\n\r\n")) }},
		{"half a header", "does not speak TLS and HTTP", func(t *testing.T) *courierSite {
			return courierTLS(t, say("HTTP/1.1 200 OK\r\nX-Said: URI"))
		}},
		{"a header of 32 KB", "does not speak TLS and HTTP", func(t *testing.T) *courierSite {
			return courierTLS(t, say("HTTP/1.1 200 OK\r\nX-Said: "+strings.Repeat("canary--", 4<<10)+"\r\n\r\n"))
		}},
		{"early hints without end", "does not speak TLS and HTTP", func(t *testing.T) *courierSite {
			return courierTLS(t, say(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: canary\r\n\r\n", 2000)))
		}},
		{"another protocol", "status 101", func(t *testing.T) *courierSite {
			return courierTLS(t, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: canary\r\nConnection: Upgrade\r\n\r\n")
				io.Copy(io.Discard, c) // until we close it
			})
		}},
		{"a certificate for another name", "certificate is for another name", func(t *testing.T) *courierSite {
			return courierServe(t, func(http.ResponseWriter, *http.Request) { t.Error("it was called") })
		}},
		{"a certificate by nobody", "signed by nobody we know", func(t *testing.T) *courierSite {
			s := courierServe(t, func(http.ResponseWriter, *http.Request) { t.Error("it was called") })
			s.Roots = x509.NewCertPool()
			return s
		}},
		{"TLS 1.1", "protocol version", func(t *testing.T) *courierSite {
			return courierServe(t, func(http.ResponseWriter, *http.Request) { t.Error("it was called") }, func(server *httptest.Server) {
				server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
			})
		}},
		{"nobody listens", "connection refused", func(t *testing.T) *courierSite {
			s := courierServe(t, courierStatus(200))
			s.port = "1" // one of the system's choice may soon be another test's
			return s
		}},
		{"no such name", "no such host", func(t *testing.T) *courierSite {
			s := courierServe(t, courierStatus(200))
			s.Resolver = courierDNS(t, func(string, int) []string { return nil })
			return s
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := row.site(t)
			url := s.url()
			if strings.Contains(row.want, "another name") {
				url = strings.Replace(url, "example.com", "example.org", 1)
			}
			took, err := s.send(t, courierTo(t, url))
			if err == nil || !strings.Contains(err.Error(), row.want) || took != 10*time.Second {
				t.Errorf("%v after %v, want %q after all three tries", err, took, row.want)
			}
		})
	}
}

// An answer that has begun well is one, however its body goes on; only a few KB
// of it are read.
func TestCourierEndlessBody(t *testing.T) {
	t.Parallel()
	s := courierServe(t, func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 64<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return // the connection is closed: who reads everything never ends
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), tooLong)
	defer cancel()
	if err := s.Send(ctx, courierTo(t, s.url()), "d", nil, nil); err != nil || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// tooLong is what nothing here takes.
const tooLong = 10 * time.Second

// A body that doesn't come is waited for as long as the try has time, and was
// never needed.
func TestCourierSlowBody(t *testing.T) {
	t.Parallel()
	s := courierServe(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "OK")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for patience := 50 * time.Millisecond; ; patience *= 2 { // for machines on which 200 takes long to arrive
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.Send(ctx, courierTo(t, s.url()), "d", nil, nil)
		cancel()
		if err == nil {
			return
		}
		if patience > tooLong/4 {
			t.Fatal(err)
		}
	}
}

// The end of ctx ends Send at once, with nothing left running, wherever it is.
func TestCourierStops(t *testing.T) {
	t.Parallel()
	reached := func(seen chan<- struct{}) {
		select {
		case seen <- struct{}{}:
		default:
		}
	}
	for _, row := range []struct {
		name string
		site func(t *testing.T, seen chan<- struct{}) *courierSite
	}{
		{"in the look-up", func(t *testing.T, seen chan<- struct{}) *courierSite {
			s := courierServe(t, courierStatus(200))
			s.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				reached(seen)
				<-ctx.Done()
				return nil, ctx.Err()
			}}
			return s
		}},
		{"in the TLS handshake", func(t *testing.T, seen chan<- struct{}) *courierSite {
			return courierRaw(t, func(c net.Conn) {
				reached(seen)
				io.Copy(io.Discard, c)
			})
		}},
		{"in the request", func(t *testing.T, seen chan<- struct{}) *courierSite {
			return courierTLS(t, func(c net.Conn) {
				reached(seen)
				<-t.Context().Done() // reads nothing until Send has returned
				io.Copy(io.Discard, c)
			})
		}},
		{"before the answer", func(t *testing.T, seen chan<- struct{}) *courierSite {
			return courierServe(t, func(_ http.ResponseWriter, r *http.Request) {
				reached(seen)
				<-r.Context().Done()
			})
		}},
		{"in the answer's header", func(t *testing.T, seen chan<- struct{}) *courierSite {
			return courierTLS(t, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Slow: ")
				reached(seen)
				io.Copy(io.Discard, c)
			})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan struct{}, 1)
			s := row.site(t, seen)
			ctx, cancel := context.WithTimeout(t.Context(), tooLong)
			defer cancel()
			body := make([]byte, 16<<20) // more than the system's buffers take
			go func() { <-seen; cancel() }()
			err := s.Send(ctx, courierTo(t, s.url()), "d", nil, body)
			courierQuiet(t, err)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", err, ctx.Err())
			}
			// The cleanup waits until the receiver sees its connection closed.
		})
	}
}

// ctx ends a pause as well, and nothing is begun after it.
func TestCourierStopsInPause(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		after time.Duration
		calls int
	}{{0, 0}, {time.Second, 1}, {2*time.Second + 1, 2}, {9 * time.Second, 2}} {
		s := courierServe(t, courierStatus(503))
		cb := courierTo(t, s.url())
		courierBubble(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), row.after)
			defer cancel()
			before := time.Now()
			err := s.Send(ctx, cb, "d", nil, nil)
			if took := time.Since(before); !errors.Is(err, context.DeadlineExceeded) || took != row.after {
				t.Errorf("%v after %v, want %v", err, took, row.after)
			}
			courierQuiet(t, err)
		})
		if n := len(s.received()); n != row.calls {
			t.Errorf("%d calls within %v, want %d", n, row.after, row.calls)
		}
	}
}

// A try has 10 s. Its end isn't that of the caller's context.
func TestCourierTryTime(t *testing.T) {
	t.Parallel()
	courierBubble(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		c := jobs.Courier{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			<-over
			return nil, net.ErrClosed
		}}}
		before := time.Now()
		err := c.Send(t.Context(), courierTo(t, "https://hooks.example.com/canary"), "d", nil, nil)
		if took := time.Since(before); took != (10+2+10+8+10)*time.Second {
			t.Errorf("took %v", took)
		}
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 10s") {
			t.Errorf("%v", err)
		}
		courierQuiet(t, err)
	})
}

// One Courier serves many at once.
func TestCourierConcurrently(t *testing.T) {
	t.Parallel()
	s := courierServe(t, courierStatus(200))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			body := fmt.Sprint(i)
			if err := s.Send(t.Context(), courierTo(t, s.url()), body, nil, []byte(body)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, call := range s.received() {
		if seen[call.body] || call.header.Get("X-Postern-Delivery") != call.body {
			t.Errorf("%v", call)
		}
		seen[call.body] = true
	}
	if len(seen) != 16 {
		t.Errorf("%d arrived", len(seen))
	}
}

// I13: no proxy of the environment is used. Package http reads that once a
// process, so the test is one of its own.
func TestI13NoProxy(t *testing.T) {
	t.Parallel()
	if os.Getenv("COURIER_PROXIED") == "" {
		proxied := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestI13NoProxy$", "-test.v")
		const nowhere = "http://127.0.0.1:1"
		proxied.Env = append(os.Environ(), "COURIER_PROXIED=yes", "HTTPS_PROXY="+nowhere, "https_proxy="+nowhere, "NO_PROXY=", "no_proxy=")
		if out, err := proxied.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestI13NoProxy")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s := courierServe(t, courierStatus(200))
	if _, err := s.send(t, courierTo(t, s.url())); err != nil {
		t.Error(err)
	}
}
