package e2e_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"postern/shared/audit"
	"postern/shared/check"
	"postern/tests/gateway"
)

// side is one of the two homes of the same API, as its callers see it.
type side struct {
	name   string
	url    string
	client *http.Client
}

func (l *local) side(t *testing.T) side {
	c := client(t)
	c.Transport = elsewhere{c.Transport, new(atomic.Int32)}
	return side{"on this machine", l.url, c}
}

func (d *deployment) side(t *testing.T) side { return side{"on Lambda", d.url, client(t)} }

// eachSide runs a test on the local server, and on Lambdas of which there may be
// several at once.
func eachSide(t *testing.T, test func(t *testing.T, s side)) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, nil).side(t))
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		test(t, stack{atOnce: 4, way: gateway.Config{SourceIP: peerOf}}.deploy(t).side(t))
	})
}

// from lets a side's requests come from an address: to the local server its
// trusted proxy says so, and API Gateway takes it for the peer's (peerOf).
func (s side) from(address string) side {
	c := *s.client
	next := c.Transport
	if e, is := next.(elsewhere); is {
		next = e.next
	}
	c.Transport = peer{next, address}
	s.client = &c
	return s
}

type peer struct {
	next    http.RoundTripper
	address string
}

func (p peer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Add("X-Forwarded-For", p.address)
	r.Header.Set("X-Peer", p.address)
	return p.next.RoundTrip(r)
}

func peerOf(r *http.Request) string {
	if address := r.Header.Get("X-Peer"); address != "" {
		return address
	}
	return "127.0.0.1"
}

// run sends a case with a credential, "" for none, which must not come back. The
// faults are the answer's, nil where there is none.
func (s side) run(t *testing.T, credential string, c check.Case) (answer *check.Response, faults []string) {
	header := http.Header{}
	if c.Body != "" {
		header.Set("Content-Type", "application/json")
	}
	maps.Copy(header, c.Header)
	target := check.Target{URL: s.url, Token: token, Client: s.client}
	if credential != "" {
		header.Set("Authorization", "Bearer "+credential)
		target.Token = credential
	}
	c.Header = header
	return target.Run(t.Context(), c)
}

// as is run that complains of faults. It may be called from several goroutines.
func (s side) as(t *testing.T, credential string, c check.Case) *check.Response {
	t.Helper()
	if c.Name == "" {
		c.Name = c.Method + " " + c.Path
	}
	answer, faults := s.run(t, credential, c)
	for _, f := range faults {
		t.Errorf("%s, %s: %s", s.name, c.Name, f)
	}
	if answer == nil {
		return &check.Response{Header: http.Header{}}
	}
	return answer
}

// raw is run that tells the status alone; 0: there was no answer.
func (s side) raw(t *testing.T, credential string, c check.Case) int {
	if answer, _ := s.run(t, credential, c); answer != nil {
		return answer.Status
	}
	return 0
}

// status is what GET /whoami says to a credential.
func (s side) status(t *testing.T, credential string) int {
	return s.raw(t, credential, get("/whoami", check.Want{}))
}

func get(path string, want check.Want) check.Case { return send("GET", path, "", want) }

func send(method, path, body string, want check.Want) check.Case {
	return check.Case{Method: method, Path: path, Body: body, Want: want}
}

// What most requests here must come back as.
var (
	fine     = check.Want{Status: 200}
	refused  = check.Want{Status: 401, Error: "Invalid API key"}
	noScope  = check.Want{Status: 403, Error: "Insufficient scope"}
	notFound = check.Want{Status: 404, Error: "Not found"}
	conflict = check.Want{Status: 409, Error: "Conflict"}
	outage   = check.Want{Status: 503, Error: "Service unavailable", Header: map[string]string{"Retry-After": check.Any}}
)

// record is a key as the API shows it.
type record struct {
	ID                string
	Name              string
	Disabled          bool
	LastUsedAt        *string `json:"last_used_at"`
	RevokedAt         *string `json:"revoked_at"`
	PreviousExpiresAt *string `json:"previous_expires_at"`
	ExpiresAt         *string `json:"expires_at"`
	TokensPerDay      *int    `json:"tokens_per_day"`
	Key               string  // its token, in the answer that makes it
}

func decode[T any](t *testing.T, r *check.Response) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.Body, &v); err != nil {
		t.Errorf("%v: %s", err, r.Body)
	}
	return v
}

// issue makes a key.
func (s side) issue(t *testing.T, by, body string) check.Key {
	t.Helper()
	made := decode[record](t, s.as(t, by, send("POST", "/keys", body, check.Want{Status: 201, Header: map[string]string{"Location": check.Any, "ETag": `"1"`}})))
	return check.Key{ID: made.ID, Token: made.Key}
}

// chain reads the audit log, page by page.
func (s side) chain(t *testing.T) []audit.Event {
	t.Helper()
	var pages bytes.Buffer
	for after := "0"; ; {
		answer := s.as(t, token, get("/audit?limit=7&after="+after, fine))
		pages.Write(answer.Body)
		next := decode[struct{ Next *string }](t, answer).Next
		if next == nil || answer.Status != 200 {
			break
		}
		after = *next
	}
	var events []audit.Event
	for e, err := range audit.Read(&pages) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

var loggedHead = regexp.MustCompile(`"audit_seq":(\d+),"audit_hash":"([0-9a-f]{64})"|audit (\d+):([0-9a-f]{64})`)

// heads finds what logs, and the command line, tell of the audit log (P12).
func heads(logs string) []audit.Head {
	var heads []audit.Head
	for _, m := range loggedHead.FindAllStringSubmatch(logs, -1) {
		seq, _ := strconv.ParseInt(m[1]+m[3], 10, 64)
		heads = append(heads, audit.Head{Seq: seq, Hash: m[2] + m[4]})
	}
	return heads
}

// verify checks a chain against what the logs tell of it, and returns the events
// that have no other half.
func verify(t *testing.T, events []audit.Event, logs string) []audit.Event {
	t.Helper()
	report, err := audit.Verify(func(yield func(audit.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}, audit.Head{}, heads(logs)...)
	if err != nil {
		t.Error(err)
	}
	return report.Unmatched
}

// actions are what events say was done, in order.
func actions(events []audit.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.Action)
	}
	return strings.Join(all, " ")
}
