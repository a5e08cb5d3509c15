package audit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/table"
	"postern/shared/table/memory"
)

// noon is the time of every event here.
func noon() time.Time {
	return time.Date(2026, 3, 4, 13, 0, 0, 70_999_999, time.FixedZone("", 3600))
}

var revoke = audit.Act{Actor: "root", Action: "keys.revoke", Target: "4fGh00aaBBcc", RequestID: "request-1", IP: "192.0.2.7"}

func nothing(context.Context) error { return nil }

// newLog is an empty chain.
func newLog() *audit.Log { return &audit.Log{Table: &memory.Table{}, Now: noon} }

// chain is what stands in the table, read and verified by nobody.
func chain(t testing.TB, l *audit.Log) []audit.Event {
	t.Helper()
	var events []audit.Event
	for e, err := range audit.Read(strings.NewReader(export(t, l, 1000))) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// actions lists what the events say.
func actions(events []audit.Event) []string {
	list := []string{}
	for _, e := range events {
		list = append(list, e.Action)
	}
	return list
}

// verify verifies a chain as its export is.
func verify(events []audit.Event, after audit.Head, logged ...audit.Head) (audit.Report, error) {
	return audit.Verify(audit.Read(strings.NewReader(lines(events))), after, logged...)
}

// P12: the intent is there before the act, the outcome before the acknowledgement.
func TestIntentBeforeOutcomeAfter(t *testing.T) {
	t.Parallel()
	l := newLog()
	outcome, err := l.Do(t.Context(), revoke, func(context.Context) error {
		if diff := cmp.Diff([]string{"keys.revoke"}, actions(chain(t, l))); diff != "" {
			t.Errorf("when it is done:\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []audit.Event{
		{Seq: 1, Time: "2026-03-04T12:00:00.070Z", Actor: "root", Action: "keys.revoke", Target: "4fGh00aaBBcc", RequestID: "request-1", IP: "192.0.2.7"},
		{Seq: 2, Time: "2026-03-04T12:00:00.070Z", Actor: "root", Action: "keys.revoke.succeeded", Target: "4fGh00aaBBcc", RequestID: "request-1", IP: "192.0.2.7"},
	}
	got := chain(t, l)
	for _, e := range got {
		item, err := l.Table.Get(t.Context(), table.Key{Partition: "audit", Sort: fmt.Sprintf("%019d", e.Seq)})
		if err != nil || item.Version != 1 || !item.Expires.IsZero() {
			t.Errorf("event %d is stored as %+v, %v", e.Seq, item, err)
		}
	}
	want[0].Hash, want[1].Hash, want[1].PreviousHash = got[0].Hash, got[1].Hash, got[0].Hash
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if outcome != got[1] {
		t.Errorf("Do returned %+v", outcome)
	}
	report, err := verify(got, audit.Head{}, outcome.Head())
	if err != nil || report.Events != 2 || report.Head != outcome.Head() || report.Unmatched != nil {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"done", nil, "succeeded"},
		{"somebody else changed it", table.ErrConflict, "failed"},
		{"there is no such item", fmt.Errorf("key: %w", table.ErrNotFound), "failed"},
		{"too large", table.ErrTooLarge, "failed"},
		{"refused, as the caller is told", api.Fail(api.NotFound, "no such key"), "failed"},
		{"a conflict, as the caller is told", api.Because(api.Conflict, errors.New("x")), "failed"},
		{"the store did not answer", errors.New("timeout"), "unknown"},
		{"the store did not answer, as the caller is told", api.Because(api.Unavailable, errors.New("timeout")), "unknown"},
		{"the caller left", context.Canceled, "unknown"},
		{"the time was over", context.DeadlineExceeded, "unknown"},
		{"another store did not answer", auth.ErrUnavailable, "unknown"},
		{"nothing to tell the caller, but a table that refused", api.Because(api.Internal, table.ErrTooLarge), "failed"},
		{"nothing to tell the caller", api.Because(api.Internal, errors.New("x")), "unknown"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog()
			outcome, err := l.Do(t.Context(), revoke, func(context.Context) error { return row.err })
			if err != row.err {
				t.Errorf("error %v, want %v as it is", err, row.err)
			}
			if action, end := outcome.Act(); action != "keys.revoke" || end != row.want || outcome.Action != action+"."+end {
				t.Errorf("the outcome is %q, want %q", outcome.Action, row.want)
			}
			if report, err := verify(chain(t, l), audit.Head{}, outcome.Head()); err != nil || len(report.Unmatched) != 0 {
				t.Errorf("%+v, %v", report, err)
			}
		})
	}
}

// faulty is a table whose n-th Put fails: before it is written, or after.
type faulty struct {
	table.Table
	before, after map[int]error

	mu   sync.Mutex
	puts int
}

func (f *faulty) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	f.mu.Lock()
	f.puts++
	n := f.puts
	f.mu.Unlock()
	if err := f.before[n]; err != nil {
		return 0, err
	}
	version, err := f.Table.Put(ctx, key, value, expected, expires)
	if f.after[n] != nil {
		return 0, f.after[n]
	}
	return version, err
}

var errDown = errors.New("the store is down")

// P12: a crash between the steps. Nothing is done without its intent, nothing is
// acknowledged without its outcome, and what is left open is reported.
func TestP12CrashBetweenSteps(t *testing.T) {
	t.Parallel()
	conflict := api.Fail(api.Conflict, "read it again")
	for _, row := range []struct {
		name      string
		before    map[int]error
		after     map[int]error
		act       error
		done      bool
		last      int64 // the number of the event that Do returns
		chain     []string
		unmatched []string
	}{
		{name: "no fault", done: true, last: 2,
			chain: []string{"keys.revoke", "keys.revoke.succeeded"}},
		{name: "the intent is not written", before: map[int]error{1: errDown}},
		{name: "the intent is written and nobody hears of it", after: map[int]error{1: errDown},
			chain: []string{"keys.revoke"}, unmatched: []string{"keys.revoke"}},
		{name: "the outcome is not written", before: map[int]error{2: errDown}, done: true, last: 1,
			chain: []string{"keys.revoke"}, unmatched: []string{"keys.revoke"}},
		{name: "the outcome is written and nobody hears of it", after: map[int]error{2: errDown}, done: true, last: 1,
			chain: []string{"keys.revoke", "keys.revoke.succeeded"}},
		{name: "the outcome of a failure is not written", before: map[int]error{2: errDown}, act: conflict, done: true, last: 1,
			chain: []string{"keys.revoke"}, unmatched: []string{"keys.revoke"}},
		{name: "the leaf sends the intent twice and meets itself", after: map[int]error{1: table.ErrConflict}, done: true, last: 2,
			chain: []string{"keys.revoke", "keys.revoke.succeeded"}},
		{name: "the leaf sends the outcome twice and meets itself", after: map[int]error{2: table.ErrConflict}, done: true, last: 2,
			chain: []string{"keys.revoke", "keys.revoke.succeeded"}},
		{name: "a conflict where nobody was", before: map[int]error{1: table.ErrConflict, 3: table.ErrConflict}, done: true, last: 2,
			chain: []string{"keys.revoke", "keys.revoke.succeeded"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog()
			l.Table = &faulty{Table: l.Table, before: row.before, after: row.after}
			done := false
			last, err := l.Do(t.Context(), revoke, func(context.Context) error { done = true; return row.act })
			if done != row.done {
				t.Errorf("done: %v", done)
			}
			fails := row.before[1] == errDown || row.before[2] == errDown || row.after[1] == errDown || row.after[2] == errDown
			if (err != nil) != fails {
				t.Errorf("error %v", err)
			}
			if fails && (!errors.Is(err, errDown) || !errors.Is(err, row.act) && row.act != nil || api.ProblemOf(err, "").Status != 503) {
				t.Errorf("error %v, which the caller is told as %+v", err, api.ProblemOf(err, ""))
			}
			got := chain(t, l)
			if diff := cmp.Diff(row.chain, actions(got), equalEmpty); diff != "" {
				t.Error(diff)
			}
			if last.Seq != row.last || last.Seq > 0 && last != got[last.Seq-1] {
				t.Errorf("the last event is %+v", last)
			}
			report, err := verify(got, audit.Head{})
			if diff := cmp.Diff(row.unmatched, actions(report.Unmatched), equalEmpty); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

var equalEmpty = cmp.FilterValues(func(a, b []string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())

// A panic is a crash too: nobody knows how far the act came.
func TestPanicLeavesIntentOpen(t *testing.T) {
	t.Parallel()
	l := newLog()
	func() {
		defer func() { recover() }()
		l.Do(t.Context(), revoke, func(context.Context) error { panic("x") })
	}()
	report, err := verify(chain(t, l), audit.Head{})
	if diff := cmp.Diff([]string{"keys.revoke"}, actions(report.Unmatched)); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

// What has begun has its outcome written, though the request has ended.
func TestOutcomeOutlivesRequest(t *testing.T) {
	t.Parallel()
	l := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := l.Do(ctx, revoke, func(ctx context.Context) error {
		cancel()
		return ctx.Err()
	})
	if err != context.Canceled {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"keys.revoke", "keys.revoke.unknown"}, actions(chain(t, l))); diff != "" {
		t.Error(diff)
	}
	_, err = l.Do(ctx, revoke, func(context.Context) error { t.Error("done for a caller who has left"); return nil })
	if !errors.Is(err, context.Canceled) || len(chain(t, l)) != 2 {
		t.Errorf("error %v", err)
	}
}

// hanging is a table whose Puts from the n-th on wait for their context's end.
type hanging struct {
	table.Table
	from, puts int
}

func (h *hanging) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if h.puts++; h.puts >= h.from {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return h.Table.Put(ctx, key, value, expected, expires)
}

// Neither event waits for longer than 5 s for its table.
func TestHangingTable(t *testing.T) {
	t.Parallel()
	for n, done := range map[int]bool{1: false, 2: true} {
		synctest.Test(t, func(t *testing.T) {
			l, start, did := newLog(), time.Now(), false
			l.Table = &hanging{Table: l.Table, from: n}
			_, err := l.Do(t.Context(), revoke, func(context.Context) error { did = true; return nil })
			if waited := time.Since(start); waited != 5*time.Second || did != done || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("write %d hangs: %v after %v, done: %v", n, err, waited, did)
			}
		})
	}
}

// contested is a table where somebody is always faster, and which doesn't look at
// contexts.
type contested struct {
	table.Table
	puts int
}

func (c *contested) List(context.Context, string, table.Query) ([]table.Item, error) { return nil, nil }

func (c *contested) Put(context.Context, table.Key, []byte, int64, time.Time) (int64, error) {
	c.puts++
	return 0, table.ErrConflict
}

// The race for a number ends, and then nothing is done. A race that was lost is
// no version conflict: that would tell the caller that its act was.
func TestRaceIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, start := newLog(), time.Now()
		c := &contested{Table: l.Table}
		l.Table = c
		_, err := l.Do(t.Context(), revoke, func(context.Context) error { t.Error("done"); return nil })
		if api.ProblemOf(err, "").Status != 503 || errors.Is(err, table.ErrConflict) || c.puts > 500 || time.Since(start) != 5*time.Second {
			t.Errorf("%d tries in %v: %v", c.puts, time.Since(start), err)
		}
	})
}

// overtaken is a table where many others append before the first Put.
type overtaken struct {
	table.Table
	others func()
	puts   int
}

func (o *overtaken) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if o.puts++; o.puts == 1 {
		o.others()
	}
	return o.Table.Put(ctx, key, value, expected, expires)
}

// Who was left far behind doesn't try number after number.
func TestCatchesUpAtOnce(t *testing.T) {
	t.Parallel()
	others := newLog()
	o := &overtaken{Table: others.Table, others: func() {
		for range 20 {
			if _, err := others.Do(t.Context(), revoke, nothing); err != nil {
				t.Error(err)
			}
		}
	}}
	act := revoke
	act.RequestID = "request-2"
	outcome, err := (&audit.Log{Table: o, Now: noon}).Do(t.Context(), act, nothing)
	if err != nil || outcome.Seq != 42 || o.puts != 3 {
		t.Errorf("event %d after %d writes, %v", outcome.Seq, o.puts, err)
	}
}

// far is a table with a way to it, so that those who race all read before one of
// them writes.
type far struct{ table.Table }

func (f far) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	time.Sleep(time.Millisecond)
	return f.Table.Put(ctx, key, value, expected, expires)
}

func (f far) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	items, err := f.Table.List(ctx, partition, q)
	time.Sleep(time.Millisecond)
	return items, err
}

// P12: administrators who race for a number all win one.
func TestP12Race(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const administrators = 64
		shared := far{&memory.Table{}}
		one := &audit.Log{Table: shared, Now: noon}
		outcomes := make([]audit.Event, administrators)
		var all sync.WaitGroup
		for i := range administrators {
			all.Go(func() {
				l := one
				if i%2 == 0 { // half of them in processes of their own
					l = &audit.Log{Table: shared, Now: noon}
				}
				act := revoke
				act.RequestID = fmt.Sprint("request-", i)
				e, err := l.Do(t.Context(), act, nothing)
				if err != nil {
					t.Errorf("administrator %d: %v", i, err)
				}
				outcomes[i] = e
			})
		}
		all.Wait()
		events := chain(t, one)
		logged := []audit.Head{}
		for i, e := range outcomes {
			if e.RequestID != fmt.Sprint("request-", i) || !slices.Contains(events, e) {
				t.Errorf("administrator %d got %+v", i, e)
			}
			logged = append(logged, e.Head())
		}
		report, err := verify(events, audit.Head{}, logged...)
		if err != nil || report.Events != 2*administrators || len(report.Unmatched) != 0 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// Without a way that makes them take turns, so that the race detector sees them;
// and in a bubble, where a slow machine doesn't use up the time that an event has.
func TestRaceOfThreads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				act := revoke
				act.RequestID = fmt.Sprint("request-", i)
				if _, err := l.Do(t.Context(), act, nothing); err != nil {
					t.Errorf("administrator %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if report, err := verify(chain(t, l), audit.Head{}); err != nil || report.Events != 128 || len(report.Unmatched) != 0 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// An act that Verify could not make sense of is a mistake of ours: nothing is
// written, nothing done.
func TestRefusedActs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*audit.Act)
		want   string // "": it is done
	}{
		{"all that is needed", func(a *audit.Act) { a.Target, a.IP = "", "" }, ""},
		{"64 letters", func(a *audit.Act) { a.Action = strings.Repeat("a", 64) }, ""},
		{"no actor", func(a *audit.Act) { a.Actor = "" }, "needs an actor"},
		{"no request id", func(a *audit.Act) { a.RequestID = "" }, "a request id"},
		{"no action", func(a *audit.Act) { a.Action = "" }, "must be 1 to 64"},
		{"65 letters", func(a *audit.Act) { a.Action = strings.Repeat("a", 65) }, "must be 1 to 64"},
		{"a space in the action", func(a *audit.Act) { a.Action = "keys revoke" }, "lower-case"},
		{"a capital in the action", func(a *audit.Act) { a.Action = "keys.Revoke" }, "lower-case"},
		{"an action that ends in .succeeded", func(a *audit.Act) { a.Action = "keys.revoke.succeeded" }, "outcome"},
		{"an action that ends in .failed", func(a *audit.Act) { a.Action = "keys.failed" }, "outcome"},
		{"an action that ends in .unknown", func(a *audit.Act) { a.Action = "keys.unknown" }, "outcome"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l, act, done := newLog(), revoke, false
			row.change(&act)
			_, err := l.Do(t.Context(), act, func(context.Context) error { done = true; return nil })
			if row.want == "" {
				if err != nil || !done || len(chain(t, l)) != 2 {
					t.Errorf("done: %v, %v", done, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), row.want) || done || len(chain(t, l)) != 0 {
				t.Errorf("done: %v, %v, want %q", done, err, row.want)
			}
		})
	}
}

// A chain whose newest event can't be read is not written to: nothing is done.
func TestDamagedChain(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		damage func(text string) string
	}{
		{"no JSON", func(string) string { return "x" }},
		{"nothing", func(string) string { return "" }},
		{"more behind it", func(s string) string { return s + "{}" }},
		{"another number", func(s string) string { return strings.Replace(s, `"seq":2`, `"seq":1`, 1) }},
		{"a member twice", func(s string) string { return strings.Replace(s, `"ip":`, `"ip":"","ip":`, 1) }},
		{"a member of another case", func(s string) string { return strings.Replace(s, `"ip":`, `"IP":`, 1) }},
		{"a member that is missing", func(s string) string { return strings.Replace(s, `"ip":"192.0.2.7",`, ``, 1) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog()
			if _, err := l.Do(t.Context(), revoke, nothing); err != nil {
				t.Fatal(err)
			}
			items, err := l.Table.List(t.Context(), "audit", table.Query{Reversed: true, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			item := items[0]
			if _, err := l.Table.Put(t.Context(), item.Key, []byte(row.damage(string(item.Value))), item.Version, time.Time{}); err != nil {
				t.Fatal(err)
			}
			_, err = l.Do(t.Context(), revoke, func(context.Context) error { t.Error("done"); return nil })
			if err == nil || !strings.Contains(err.Error(), "item 0000000000000000002 of the audit chain is damaged") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Whatever is said of an act, its event is printable, bounded, and verifies once
// it has been JSON.
func TestTextsAreBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, want string }{
		{"plain", "key 1 <a&b>", "key 1 <a&b>"},
		{"letters of the world", "ключ 鍵 🔑", "ключ 鍵 🔑"},
		{"spaces", " a  b ", " a  b "},
		{"quotes", `"\`, `"\`},
		{"bytes that are no UTF-8", "a\xff\xc3b", "a\ufffd\ufffdb"},
		{"half a surrogate", "\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
		{"the replacement itself", "\ufffd", "\ufffd"},
		{"a terminal's escape", "\x1b[2Jx\r\n\x00\x7f", "\ufffd[2Jx\ufffd\ufffd\ufffd\ufffd"},
		{"letters that turn text around", "a\u202eb\u2028", "a\ufffdb\ufffd"},
		{"256 bytes", strings.Repeat("x", 256), strings.Repeat("x", 256)},
		{"257 bytes", strings.Repeat("x", 257), strings.Repeat("x", 256)},
		{"a letter across the end", strings.Repeat("x", 255) + "é", strings.Repeat("x", 255)},
		{"a letter at the end", strings.Repeat("x", 254) + "é", strings.Repeat("x", 254) + "é"},
		{"bad bytes that grow", strings.Repeat("\xff", 256), strings.Repeat("\ufffd", 85)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLog()
			act := audit.Act{Actor: row.text, Action: "keys.create", Target: row.text, RequestID: row.text, IP: row.text}
			e, err := l.Do(t.Context(), act, nothing)
			if err != nil {
				t.Fatal(err)
			}
			if e.Actor != row.want || e.Target != row.want || e.RequestID != row.want || e.IP != row.want {
				t.Errorf("%+v, want %q", e, row.want)
			}
			report, err := verify(chain(t, l), audit.Head{}, e.Head())
			if err != nil || report.Events != 2 || len(report.Unmatched) != 0 {
				t.Errorf("%+v, %v", report, err)
			}
		})
	}
}
