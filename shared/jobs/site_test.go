package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/limit"
	"postern/shared/route"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/tests/logbook"
)

// longest is how long a run may take here; its lease is 30 s longer.
const (
	longest = time.Minute
	lease   = longest + 30*time.Second
)

// canary is in what nobody but a callback's receiver may see (P4). It has what no
// random id has, or one would be taken for it now and then.
const canary = "CANARY-0"

// site is jobs in a table that can be watched and made to fail, whatever sends
// and runs them, and what that is told. It lives in a bubble of synctest.
type site struct {
	*testing.T
	table  *faulty
	store  *jobs.Store
	worker *jobs.Worker
	queue  *queue
	mail   *mailbox
	log    logbook.Book
	runs   atomic.Int32
	run    runFunc
	faults bool // whether there were some
}

type runFunc = func(ctx context.Context, caller auth.Caller, requestID string, request []byte) (any, error)

// bubble runs a test of its own with a site, in parallel to others, with time
// that is moved by sleeping.
func bubble(t *testing.T, f func(t *testing.T, s *site)) {
	t.Helper()
	t.Parallel()
	inBubble(t, f)
}

// inBubble is a part of a test.
func inBubble(t *testing.T, f func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newSite(t)) })
}

func newSite(t *testing.T) *site {
	s := &site{T: t, table: &faulty{partitions: map[string]bool{}}, queue: &queue{}, mail: &mailbox{}}
	s.store = &jobs.Store{Table: s.table, Queue: s.queue}
	s.worker = s.newWorker()
	s.run = says("done")
	return s
}

// newWorker is another process over the same table.
func (s *site) newWorker() *jobs.Worker {
	return &jobs.Worker{
		Store: &jobs.Store{Table: s.table}, Log: api.NewLogger(&s.log, slog.LevelDebug), Longest: longest, Courier: s.mail, Usage: new(refusals),
		Present: asBefore,
		Run: func(ctx context.Context, caller auth.Caller, requestID string, request []byte) (any, error) {
			s.runs.Add(1)
			return s.run(ctx, caller, requestID, request)
		},
	}
}

// asBefore is a Present that knows of no change.
func asBefore(_ context.Context, was auth.Caller) (auth.Caller, error) { return was, nil }

// says is a run that takes no time.
func says(result any) runFunc {
	return func(context.Context, auth.Caller, string, []byte) (any, error) { return result, nil }
}

// fails is a run that ends with err.
func fails(err error) runFunc {
	return func(context.Context, auth.Caller, string, []byte) (any, error) { return nil, err }
}

// waits is a run that takes until it is told to stop.
func waits(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// takes is a run that takes that long, and doesn't listen.
func takes(d time.Duration, result any) runFunc {
	return func(context.Context, auth.Caller, string, []byte) (any, error) {
		time.Sleep(d)
		return result, nil
	}
}

var alice, bob = holder("alice"), holder("bob")

func holder(id string) auth.Caller {
	return auth.Caller{ID: id, Kind: auth.IssuedKey, Scopes: []route.Scope{route.Chat}}
}

// order is a plain one; told is one with a callback.
func order() jobs.Order {
	return jobs.Order{RequestID: "request-of-order", Request: []byte(`{"message":"hello"}`)}
}

func (s *site) told() jobs.Order {
	s.Helper()
	to, err := jobs.NewCallback(&jobs.CallbackWords{URL: "https://hooks.example.com/" + canary, Secret: canary + "-secret"})
	if err != nil {
		s.Fatal(err)
	}
	o := order()
	o.Callback = to
	return o
}

// submit submits an order of alice's.
func (s *site) submit(o jobs.Order) string {
	s.Helper()
	return s.submitAs(alice, o)
}

func (s *site) submitAs(caller auth.Caller, o jobs.Order) string {
	s.Helper()
	job, err := s.store.Submit(s.Context(), caller, o)
	if err != nil {
		s.Fatal(err)
	}
	return job.ID
}

// do has the worker do a job, whose error is to be want.
func (s *site) do(id string, want error) {
	s.Helper()
	s.doBy(s.worker, id, want)
}

func (s *site) doBy(w *jobs.Worker, id string, want error) {
	s.Helper()
	if err := w.Do(s.Context(), id); !errors.Is(err, want) {
		s.Errorf("Do: %v, want %v", err, want)
	}
}

// start begins to do a job and returns when it waits for something. The end is
// sent.
func (s *site) start(ctx context.Context, w *jobs.Worker, id string) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- w.Do(ctx, id) }()
	synctest.Wait()
	return ended
}

// die leaves a job as a process does that is killed while it runs it.
func (s *site) die(id string) {
	s.Helper()
	before := s.run
	s.run = waits
	ctx, kill := context.WithCancel(s.Context())
	ended := s.start(ctx, s.worker, id)
	kill()
	if err := <-ended; err != context.Canceled {
		s.Errorf("a run that was stopped: %v", err)
	}
	s.run = before
}

// get is a job of alice's.
func (s *site) get(id string) jobs.Job {
	s.Helper()
	job, err := s.store.Get(s.Context(), alice, id)
	if err != nil {
		s.Fatal(err)
	}
	return job
}

// is fails the test unless alice's job has that status.
func (s *site) is(id string, want jobs.Status) {
	s.Helper()
	if got := s.get(id); got.Status != want {
		s.Errorf("the job is %s, want %s", got.Status, want)
	}
}

// items are all that the table has of a partition that begins so, by
// "partition sort".
func (s *site) items(prefix string) map[string]string {
	s.Helper()
	all := map[string]string{}
	for partition := range s.table.known() {
		items, err := s.table.Table.List(s.Context(), partition, table.Query{Limit: table.MaxList})
		if err != nil {
			s.Fatal(err)
		}
		for _, item := range items {
			if strings.HasPrefix(partition, prefix) {
				all[partition+" "+item.Sort] = string(item.Value)
			}
		}
	}
	return all
}

// sorts is the names of items, with X for all that is random.
func sorts(items map[string]string) []string {
	var names []string
	for name := range items {
		names = append(names, random.ReplaceAllString(name, "X"))
	}
	slices.Sort(names)
	return names
}

var random = regexp.MustCompile(`[A-Z2-7]{26}`)

// quiet fails the test if a callback's address or secret is in the table, in a
// response or in the log (P4).
func (s *site) quiet(id string) {
	s.Helper()
	for name, value := range s.items("") {
		if strings.Contains(value, canary) {
			s.Errorf("%s has the callback still: %s", name, value)
		}
	}
	s.unseen(id)
}

func (s *site) unseen(id string) {
	s.Helper()
	for _, text := range []string{s.ask(alice, "GET", "/jobs/"+id).body, s.ask(alice, "GET", "/jobs").body, s.log.String()} {
		if strings.Contains(text, canary) {
			s.Errorf("the callback is in %s", text)
		}
	}
}

// reply is a response read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// problem is a refusal's.
func (p reply) problem(t *testing.T) api.Problem {
	t.Helper()
	var problem api.Problem
	if err := json.Unmarshal([]byte(p.body), &problem); err != nil {
		t.Fatalf("%v in %s", err, p.body)
	}
	return problem
}

// ask sends a request as caller.
func (s *site) ask(caller auth.Caller, method, target string) reply {
	s.Helper()
	frame, err := api.New(api.Config{
		Routes:   slices.DeleteFunc(route.Table(), func(r route.Route) bool { return !strings.HasPrefix(r.Name, "jobs.") }),
		Handlers: s.store.Handlers(),
		Door:     door{caller},
		Log:      api.NewLogger(&s.log, slog.LevelDebug),
		Limiter:  noLimit{},
	})
	if err != nil {
		s.Fatal(err)
	}
	w := httptest.NewRecorder()
	frame.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

// door lets everybody in as one caller.
type door struct{ caller auth.Caller }

func (door) Arrival(*http.Request) (string, netip.Addr) {
	return "request-1", netip.MustParseAddr("192.0.2.7")
}

func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

type noLimit struct{}

func (noLimit) Take(context.Context, string, int) (limit.Decision, error) {
	return limit.Decision{Admitted: true}, nil
}

// queue is a jobs.Queue that remembers.
type queue struct {
	mu     sync.Mutex
	ids    []string
	before error // refuses what is sent
	after  error // is told of what was taken
}

func (q *queue) Send(_ context.Context, id, _ string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.before != nil {
		return q.before
	}
	q.ids = append(q.ids, id)
	return q.after
}

// letter is what a callback was told.
type letter struct {
	delivery, body string
	header         http.Header
}

// mailbox is a courier that remembers.
type mailbox struct {
	mu      sync.Mutex
	letters []letter
	answer  func(ctx context.Context) error // nil: it is delivered
}

func (m *mailbox) Send(ctx context.Context, to *jobs.Callback, delivery string, header http.Header, body []byte) error {
	m.mu.Lock()
	m.letters = append(m.letters, letter{delivery, string(body), header})
	answer := m.answer
	m.mu.Unlock()
	if answer != nil {
		return answer(ctx)
	}
	return nil
}

// until is a receiver that takes longer than we have.
func until(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// received is what came so far.
func (m *mailbox) received() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.letters)
}

// faulty is a table in memory whose operations can be watched and made to fail.
type faulty struct {
	memory.Table
	mu         sync.Mutex
	partitions map[string]bool
	before     hook // is told of each operation; its error is the operation's
	after      hook // the same, once it is done
}

type hook func(op string, key table.Key) error

var errDown = errors.New("the table is down")

// on sets what is told of operations; nil: nothing any more.
func (f *faulty) on(before, after hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *faulty) tell(after bool, op string, key table.Key) error {
	f.mu.Lock()
	h := f.before
	if after {
		h = f.after
	}
	f.partitions[key.Partition] = true
	f.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(op, key)
}

// known is the partitions that anybody has asked for.
func (f *faulty) known() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.partitions)
}

// once is a hook that calls f at the first operation that begins so: "put job",
// with the sort key behind the operation.
func once(at string, f func() error) hook {
	var gone atomic.Bool
	return func(op string, key table.Key) error {
		if !strings.HasPrefix(op+" "+key.Sort, at) || gone.Swap(true) {
			return nil
		}
		return f()
	}
}

// faultAt is the two hooks of a fault in the nth operation, from 1: before it
// happens, or after it did. hit tells whether it came to that.
func faultAt(n int, lost bool) (before, after hook, hit func() bool) {
	var count atomic.Int32
	mine := func(string, table.Key) error {
		if int(count.Add(1)) == n {
			return errDown
		}
		return nil
	}
	hit = func() bool { return int(count.Load()) >= n }
	if lost {
		return nil, mine, hit
	}
	return mine, nil, hit
}

func (f *faulty) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := f.tell(false, "get", key); err != nil {
		return table.Item{}, err
	}
	item, err := f.Table.Get(ctx, key)
	if e := f.tell(true, "get", key); e != nil {
		return table.Item{}, e
	}
	return item, err
}

func (f *faulty) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := f.tell(false, "put", key); err != nil {
		return 0, err
	}
	version, err := f.Table.Put(ctx, key, value, expected, expires)
	if e := f.tell(true, "put", key); e != nil {
		return 0, e
	}
	return version, err
}

func (f *faulty) Delete(ctx context.Context, key table.Key, expected int64) error {
	if err := f.tell(false, "delete", key); err != nil {
		return err
	}
	err := f.Table.Delete(ctx, key, expected)
	if e := f.tell(true, "delete", key); e != nil {
		return e
	}
	return err
}

func (f *faulty) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	key := table.Key{Partition: partition}
	if err := f.tell(false, "list", key); err != nil {
		return nil, err
	}
	items, err := f.Table.List(ctx, partition, q)
	if e := f.tell(true, "list", key); e != nil {
		return nil, e
	}
	return items, err
}
