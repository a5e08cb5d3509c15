package keys_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/route"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/tests/logbook"
)

// noon is when every test begins.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

func (c *clock) Add(d time.Duration) { c.Set(c.Now().Add(d)) }

// store is a table in memory whose operations can be watched, stopped and made
// to fail.
type store struct {
	*memory.Table
	mu     sync.Mutex
	gets   int
	lists  int
	before func(op string, key table.Key) error // told of each operation; its error is the operation's
	after  func(op string, key table.Key) error // the same, once it is done
}

var errDown = errors.New("the table is down")

func (s *store) hook(after bool, op string, key table.Key) error {
	s.mu.Lock()
	h := s.before
	switch {
	case after:
		h = s.after
	case op == "get":
		s.gets++
	case op == "list":
		s.lists++
	}
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(op, key)
}

// onEach sets what is told of operations; nil: nothing any more.
func (s *store) onEach(before, after func(op string, key table.Key) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// down makes every operation fail, or no more.
func (s *store) down(is bool) {
	if !is {
		s.onEach(nil, nil)
		return
	}
	s.onEach(func(string, table.Key) error { return errDown }, nil)
}

// asked is how many Gets and Lists there were since it was last called.
func (s *store) asked() (gets, lists int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gets, lists = s.gets, s.lists
	s.gets, s.lists = 0, 0
	return gets, lists
}

func (s *store) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := s.hook(false, "get", key); err != nil {
		return table.Item{}, err
	}
	item, err := s.Table.Get(ctx, key)
	if e := s.hook(true, "get", key); e != nil {
		return table.Item{}, e
	}
	return item, err
}

func (s *store) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := s.hook(false, "put", key); err != nil {
		return 0, err
	}
	version, err := s.Table.Put(ctx, key, value, expected, expires)
	if e := s.hook(true, "put", key); e != nil {
		return 0, e
	}
	return version, err
}

func (s *store) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	if err := s.hook(false, "list", table.Key{Partition: partition}); err != nil {
		return nil, err
	}
	return s.Table.List(ctx, partition, q)
}

// site is an administration over a table, and its log.
type site struct {
	testing.TB
	*clock
	table *store
	admin *keys.Admin
	audit *audit.Log
	log   logbook.Book
	used  sync.Map // when a key was last used, by id
	shown sync.Map // the token that a key's holder was found by, by id
}

func newSite(t testing.TB) *site {
	s := &site{TB: t, clock: &clock{now: noon}}
	s.table = &store{Table: &memory.Table{Now: s.Now}}
	s.audit = &audit.Log{Table: s.table, Now: s.Now}
	s.admin = &keys.Admin{Table: s.table, Audit: s.audit, Now: s.Now, DefaultRate: 1000,
		LastUsed: func(_ context.Context, id string) (time.Time, error) {
			if at, ok := s.used.Load(id); ok {
				return at.(time.Time), nil
			}
			return time.Time{}, nil
		}}
	return s
}

// rows are the routes that the package serves, and the audit chain's.
func rows() []route.Route {
	return append(slices.DeleteFunc(route.Table(), func(r route.Route) bool { return !strings.HasPrefix(r.Name, "keys.") }),
		route.Route{Name: "audit", Method: "GET", Path: "/audit", Scope: route.Admin})
}

// door lets everybody in as one caller.
type door struct{ caller auth.Caller }

func (door) Arrival(*http.Request) (string, netip.Addr) {
	return "request-1", netip.MustParseAddr("192.0.2.7")
}

func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

// noLimit is never asked: no limit counts administrative routes.
type noLimit struct{ api.Limiter }

// behind is the site behind a door.
func (s *site) behind(d api.Door) http.Handler {
	handlers := s.admin.Handlers()
	handlers["audit"] = s.audit.List
	h, err := api.New(api.Config{
		Routes:   rows(),
		Handlers: handlers,
		Door:     d,
		Log:      api.NewLogger(&s.log, slog.LevelDebug),
		Limiter:  noLimit{},
	})
	if err != nil {
		s.Fatal(err)
	}
	return h
}

// reply is a response read to its end.
type reply struct {
	Status int
	Header http.Header
	Body   string
}

// as sends a request as caller, an issued key's with its token. body may be empty;
// headers are "Name: value".
func (s *site) as(caller auth.Caller, method, target, body string, headers ...string) reply {
	if token, ok := s.shown.Load(caller.ID); ok {
		headers = append(headers, "Authorization: Bearer "+token.(string))
	}
	return send(s.behind(door{caller}), method, target, body, headers...)
}

// ask is as with the root token.
func (s *site) ask(method, target, body string, headers ...string) reply {
	return s.as(auth.RootCaller(), method, target, body, headers...)
}

func send(h http.Handler, method, target, body string, headers ...string) reply {
	r := httptest.NewRequest(method, target, nil)
	if body != "" {
		r = httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

// want fails the test unless p has that status.
func (p reply) want(t testing.TB, status int) reply {
	t.Helper()
	if p.Status != status {
		t.Fatalf("status %d, want %d: %s", p.Status, status, p.Body)
	}
	return p
}

// detail is what a refusal says.
func (p reply) detail() string {
	var problem api.Problem
	json.Unmarshal([]byte(p.Body), &problem)
	return problem.Detail
}

// answer is a record as replies have it.
type answer struct {
	ID                string     `json:"id"`
	Name              string     `json:"name"`
	Scopes            []string   `json:"scopes"`
	Agents            []string   `json:"agents"`
	AllowedIPs        []string   `json:"allowed_ips"`
	RateLimit         *int       `json:"rate_limit"`
	TokensPerDay      *int       `json:"tokens_per_day"`
	ExpiresAt         *time.Time `json:"expires_at"`
	Disabled          bool       `json:"disabled"`
	CreatedAt         time.Time  `json:"created_at"`
	CreatedBy         string     `json:"created_by"`
	RevokedAt         *time.Time `json:"revoked_at"`
	PreviousExpiresAt *time.Time `json:"previous_expires_at"`
	LastUsedAt        *time.Time `json:"last_used_at"`
	Token             string     `json:"key"`
}

func (p reply) key(t testing.TB) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(p.Body), &a); err != nil || a.ID == "" {
		t.Fatalf("status %d with a body that is no key: %v\n%s", p.Status, err, p.Body)
	}
	return a
}

const plain = `{"name":"ci","scopes":["chat"]}`

// create makes a key as root.
func (s *site) create(body string) answer {
	s.Helper()
	return s.ask("POST", "/keys", body).want(s, 201).key(s)
}

// holder is the caller that an issued key's holder is.
func (s *site) holder(token string) auth.Caller {
	s.Helper()
	c, err := s.source().Verify(s.Context(), token)
	if err != nil {
		s.Fatal(err)
	}
	s.shown.Store(c.ID, token)
	return c
}

func (s *site) source() *keys.Source { return keys.NewSource(s.table, s.Now) }

// events are the audit chain's actions, in order.
func (s *site) events() []string {
	s.Helper()
	var list struct{ Events []audit.Event }
	if err := json.Unmarshal([]byte(s.ask("GET", "/audit?limit=1000", "").want(s, 200).Body), &list); err != nil {
		s.Fatal(err)
	}
	var actions []string
	for _, e := range list.Events {
		actions = append(actions, e.Action)
	}
	return actions
}
