package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"postern/shared/keys"
	"postern/shared/secret"
	"postern/shared/table"
	"postern/shared/table/memory"
)

// remember NAME REGEXP sets NAME to what matched in the last command's stdout: the
// first group, or all of it where there is none.
func rememberCommand(ts *testscript.TestScript, _ bool, args []string) {
	match := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if match == nil {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], match[len(match)-1])
}

// rival NAME sets NAME to the URL of a proxy to the server. Just before each
// change of a key that passes there, somebody else changes its name.
func rivalCommand(ts *testscript.TestScript, _ bool, args []string) {
	server, err := url.Parse(ts.Getenv("URL"))
	ts.Check(err)
	key, proxy := ts.Getenv("KEY"), httputil.NewSingleHostReverseProxy(server)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			path := strings.TrimSuffix(r.URL.Path, "/rotate")
			other, _ := http.NewRequest(http.MethodPatch, server.String()+path, strings.NewReader(`{"name":"rival"}`))
			other.Header = http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {key}}
			if response, err := http.DefaultClient.Do(other); err == nil {
				response.Body.Close()
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}

const canary = "CANARY-0123456789abcdef"

// at is a client of a server that isn't ours.
func at(base string) *client {
	return &client{transport: http.DefaultTransport, base: base, token: secret.New(canary)}
}

// Whatever answers, a command ends with one line that can be shown, and without
// the token (P4); and the token goes nowhere else.
func TestForeignServers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed, with %v", r.Header)
	}))
	defer elsewhere.Close()
	for _, row := range []struct {
		name   string
		handle http.HandlerFunc
		want   string
	}{
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/keys", http.StatusTemporaryRedirect)
		}, `BASE answers with a redirect to "` + elsewhere.URL + `/keys", and a token is not sent on: name the address itself with --url`},
		{"a page is no answer", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
			"BASE answers 200, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin"},
		{"a page is no refusal", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", http.StatusBadGateway) },
			"BASE answers 502, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin"},
		{"JSON of another shape is none", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":{"message":"m"}}`, 404) },
			"BASE answers 404, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin"},
		{"no word of what is wrong is no refusal", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"detail":"d"}`, 404) },
			"BASE answers 404, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin"},
		{"an endless answer is not read", func(w http.ResponseWriter, _ *http.Request) {
			for piece := bytes.Repeat([]byte(" "), 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}, "BASE answers 200, but not as Postern does: --url takes the address of its API, up to where /agents and /keys begin"},
		{"a refusal is one line, and no command to the terminal", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			json.NewEncoder(w).Encode(map[string]string{"error": "No\x1b[2J", "detail": "one\ntwo", "request_id": "r\u202e1"})
		}, "No\ufffd[2J: one two (request_id r\ufffd1)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := httptest.NewServer(row.handle)
			defer s.Close()
			_, err := at(s.URL).call("GET", "/keys", nil, "")
			if err == nil || err.Error() != strings.ReplaceAll(row.want, "BASE", s.URL) {
				t.Errorf("%v, want %s", err, row.want)
			}
		})
	}
}

// A list ends where the server says so, and doesn't go on without an entry.
func TestPagesOfForeignServers(t *testing.T) {
	t.Parallel()
	for name, page := range map[string]string{
		"no entry, and more to come": `{"keys":[],"next":"n"}`,
		"no entries":                 `{"next":null}`,
		"entries that are no list":   `{"keys":{},"next":null}`,
		"no next":                    `{"keys":[]}`,
		"no object":                  `[]`,
		"the page before once more":  `{"keys":[{}],"next":"b"}`,
		"a page further back":        `{"keys":[{}],"next":"a"}`,
		"a shorter place":            `{"keys":[{}],"next":""}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) }))
			defer s.Close()
			var last error
			got := 0
			for entry, err := range at(s.URL).list("/keys?limit=1", "keys", "b") {
				if last = err; err == nil && string(entry) != "{}" {
					t.Errorf("%s", entry)
				}
				if got++; got > 2 {
					t.Fatal("there is no end")
				}
			}
			if last == nil || !strings.Contains(last.Error(), "not as Postern does") {
				t.Error(last)
			}
		})
	}
}

// Nothing is changed that has no version.
func TestKeysOfForeignServers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, body, tag string
		ok              bool
	}{
		{"a key and its version", `{"id":"4fGh7Kl0PqRs"}`, `"1"`, true},
		{"a key without a version", `{"id":"4fGh7Kl0PqRs"}`, "", false},
		{"a key without an id", `{"name":"n"}`, `"1"`, false},
		{"no key", `[]`, `"1"`, false},
		{"nothing", "", `"1"`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("ETag", row.tag)
				io.WriteString(w, row.body)
			}))
			defer s.Close()
			if k, tag, err := at(s.URL).find("4fGh7Kl0PqRs"); (err == nil) != row.ok || row.ok && tag != row.tag {
				t.Errorf("%v, %q, %v", k, tag, err)
			}
		})
	}
}

// A new key that isn't there is no success, and the answer's own status is told.
func TestNewKeysOfForeignServers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"id":"4fGh7Kl0PqRs","name":"n"}`, `{"id":"4fGh7Kl0PqRs","key":""}`, `{"id":"4fGh7Kl0PqRs","key":null}`, `{"name":"n"}`, `[]`, ``} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, body)
		}))
		c := at(s.URL)
		created, err := c.call("POST", "/keys", fields{}, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, asJSON := range []bool{false, true} {
			if err := c.showNew(created, asJSON); err == nil || !strings.HasPrefix(err.Error(), s.URL+" answers 201, but not as Postern does") {
				t.Errorf("%s: %v", body, err)
			}
		}
		s.Close()
	}
}

// What was sent may be done, whatever became of the answer.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer s.Close()
	const gone = "http://127.0.0.1:1" // a port of the system's choice may soon be another test's
	const maybe = "may be done all the same"
	for _, row := range []struct {
		name, method, base string
		maybe              bool
	}{
		{"a change that was sent", "POST", s.URL, true},
		{"a change that wasn't", "POST", gone, false},
		{"a question", "GET", s.URL, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := at(row.base).call(row.method, "/keys", nil, "")
			if err == nil || strings.Contains(err.Error(), maybe) != row.maybe || strings.Contains(err.Error(), canary) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A token goes over TLS, or not beyond this machine; and no error repeats a URL
// that may have one in it.
func TestBaseURL(t *testing.T) {
	t.Parallel()
	const (
		form  = "it takes an address"
		parts = "it has a user name, a password, a query or a fragment"
		clear = "a token would cross the network in clear"
	)
	for _, row := range []struct{ text, want, fault string }{
		{text: "https://api.example.com", want: "https://api.example.com"},
		{text: "https://api.example.com/Prod/", want: "https://api.example.com/Prod"},
		{text: "http://127.0.0.1:8080/", want: "http://127.0.0.1:8080"},
		{text: "http://127.9.9.9", want: "http://127.9.9.9"},
		{text: "http://[::1]:80", want: "http://[::1]:80"},
		{text: "http://[::ffff:127.0.0.1]", want: "http://[::ffff:127.0.0.1]"},
		{text: "HTTP://LocalHost:1", want: "http://LocalHost:1"},
		{text: "http://api.example.com", fault: clear},
		{text: "http://localhost.example.com", fault: clear},
		{text: "http://127.0.0.1.example.com", fault: clear},
		{text: "http://0.0.0.0:8080", fault: clear},
		{text: "http://192.168.0.1", fault: clear},
		{text: "http://[fe80::1]", fault: clear},
		{text: "http://127.0.0.1@" + canary + ".example.com", fault: parts},
		{text: "https://root:" + canary + "@127.0.0.1", fault: parts},
		{text: "https://127.0.0.1/?token=" + canary, fault: parts},
		{text: "https://127.0.0.1/?", fault: parts},
		{text: "https://127.0.0.1/#" + canary, fault: parts},
		{text: "https://127.0.0.1/#", fault: parts},
		{text: "127.0.0.1:8080", fault: form},
		{text: "localhost:8080", fault: form},
		{text: "https://", fault: form},
		{text: "https://:443", fault: form},
		{text: "ftp://127.0.0.1", fault: form},
		{text: "file:///" + canary, fault: form},
		{text: "https://127.0.0.1:port", fault: form},
		{text: "https://127.0.0.1/%zz" + canary, fault: form},
		{text: canary, fault: form},
	} {
		t.Run(row.text, func(t *testing.T) {
			got, err := baseURL(row.text)
			if got != row.want || (err == nil) != (row.fault == "") {
				t.Fatalf("%q, %v", got, err)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), row.fault) || strings.Contains(err.Error(), canary)) {
				t.Errorf("%v, want %s", err, row.fault)
			}
		})
	}
}

// Lists are whole, however many pages they have; a long log is shown page by
// page, with one heading.
func TestPages(t *testing.T) {
	t.Parallel()
	c, err := overTable(&memory.Table{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	const count = inTable/2 + 1
	for i := range count {
		if _, err := c.call("POST", "/keys", fields{"name": fmt.Sprint("key ", i), "scopes": []string{"chat"}}, ""); err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]bool{}
	for entry, err := range c.list("/keys?limit=100", "keys", "") {
		var k key
		if err := errors.Join(err, json.Unmarshal(entry, &k)); err != nil {
			t.Fatal(err)
		}
		names[k.Name] = true
	}
	if len(names) != count {
		t.Errorf("%d keys, want %d", len(names), count)
	}
	for after, want := range map[int64]int{0: 2 * count, 1: 2*count - 1, 2*count - 1: 1, 2 * count: 0} {
		var table, lines bytes.Buffer
		if err := errors.Join(c.auditTable(&table, after), c.export(&lines, after)); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(table.String(), "\n"); got != want+1 || strings.Count(table.String(), "REQUEST_ID") != 1 {
			t.Errorf("behind %d: %d lines of a table, want %d", after, got, want+1)
		}
		if got := strings.Count(lines.String(), "\n"); got != want {
			t.Errorf("behind %d: %d lines, want %d", after, got, want)
		}
	}
}

// unwritable is a table that can't be written to.
type unwritable struct{ table.Table }

func (unwritable) Put(context.Context, table.Key, []byte, int64, time.Time) (int64, error) {
	return 0, errors.New("the disk is full: make room")
}

// Who sits at the machine is told what went wrong on it, where a caller of the
// API is not; and not what went wrong before.
func TestCauseAtThisMachine(t *testing.T) {
	t.Parallel()
	c, err := overTable(unwritable{&memory.Table{}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.call("POST", "/keys", fields{"name": "n", "scopes": []string{"chat"}}, "")
	if err == nil || !regexp.MustCompile(`^Service unavailable: .*the disk is full: make room \(request_id \S+\)$`).MatchString(err.Error()) {
		t.Error(err)
	}
	_, err = c.call("GET", "/keys/000000000000", nil, "")
	if err == nil || !strings.HasPrefix(err.Error(), "Not found: There is no such key") {
		t.Error(err)
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	err := columns(&b, []string{"ID", "NAME", "X"}, []string{"1", "gäßchen", ""}, []string{"\x1b[31m2", "a\tb\nc", "z"}, []string{strings.Repeat("x", maxCell+1), "", "\u202e"})
	long := strings.Repeat("x", maxCell)
	pad := func(s string) string { return s + strings.Repeat(" ", maxCell+2-len([]rune(s))) }
	want := pad("ID") + "NAME     X\n" +
		pad("1") + "gäßchen  -\n" +
		pad("\ufffd[31m2") + "a\ufffdb c    z\n" +
		long + "  -        \ufffd\n"
	if diff := cmp.Diff(want, b.String()); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got := moment(new(time.Date(2026, 11, 21, 23, 0, 0, 5, time.FixedZone("", 3600)))); got != "2026-11-21T22:00:00Z" {
		t.Error(got)
	}
	for in, want := range map[string]string{
		"":                       "",
		strings.Repeat("ä", 40):  strings.Repeat("ä", 40),
		strings.Repeat("ä", 41):  strings.Repeat("ä", 39) + "…",
		strings.Repeat("ä", 400): strings.Repeat("ä", 39) + "…",
	} {
		if got := short(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What is said of a key is what the server makes of it at that moment, and a
// rotation asks if it ends something at once.
func TestState(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(d time.Duration) *time.Time {
		t := now.Add(d)
		return &t
	}
	for _, row := range []struct {
		name  string
		key   keys.Key
		grace string
		state string
		ends  string
	}{
		{"without end", keys.Key{}, "24h", "active", ""},
		{"before its end", keys.Key{Grant: keys.Grant{ExpiresAt: at(1)}}, "", "active", ""},
		{"at its end", keys.Key{Grant: keys.Grant{ExpiresAt: at(0)}}, "", "expired", ""},
		{"disabled", keys.Key{Grant: keys.Grant{Disabled: true, ExpiresAt: at(-1)}}, "1s", "disabled", ""},
		{"revoked", keys.Key{Grant: keys.Grant{Disabled: true}, RevokedAt: at(-1)}, "", "revoked", ""},
		{"no grace", keys.Key{}, "0", "active", "Without grace"},
		{"no grace in days", keys.Key{}, "00d", "active", "Without grace"},
		{"rotated, the old one at its end", keys.Key{PreviousExpiresAt: at(0)}, "10m", "active", ""},
		{"rotated, the old one before its end", keys.Key{PreviousExpiresAt: at(1)}, "", "active", ""},
		{"rotated without grace, the old one at its end", keys.Key{PreviousExpiresAt: at(0)}, "0", "active", "Without grace the old one stops working at once."},
		{"rotated without grace, the old one before its end", keys.Key{PreviousExpiresAt: at(1)}, "0s", "active", "Without grace the old one stops working at once, and so do"},
	} {
		k := key{Key: row.key}
		if got := k.state(now); got != row.state {
			t.Errorf("%s: %s, want %s", row.name, got, row.state)
		}
		if got := k.endsAtOnce(row.grace, now); !strings.HasPrefix(got, row.ends) || (got == "") != (row.ends == "") {
			t.Errorf("%s: %q, want %q", row.name, got, row.ends)
		}
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 23, 0, 0, 0, time.FixedZone("", 3600))
	for _, row := range []struct{ text, want string }{
		{"2027-01-31T12:00:00+02:00", "2027-01-31T12:00:00+02:00"},
		{"30d", "2026-12-21T22:00:00Z"},
		{"12h", "2026-11-22T10:00:00Z"},
		{"90m", "2026-11-21T23:30:00Z"},
		{"5s", "2026-11-21T22:00:05Z"},
		{"36500d", "2126-10-28T22:00:00Z"},
		{"36501d", ""},
		{"2147483648s", ""},
		{"2147483647d", ""},
		{"1.5h", ""},
		{"-1h", ""},
		{"1h30m", ""},
		{"30", ""},
		{"d", ""},
		{"", ""},
		{"2027-01-31", ""},
		{"2027-01-31 12:00:00Z", ""},
	} {
		got, err := expiry(row.text, now)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%q: %q, %v", row.text, got, err)
		}
	}
}
