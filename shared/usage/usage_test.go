package usage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/model"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

var ten = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// clock is a wall clock that moves when told to.
type clock struct{ nanos atomic.Int64 }

func (c *clock) Now() time.Time  { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *clock) Set(t time.Time) { c.nanos.Store(t.UnixNano()) }

// faulty is a table that fails when told to, and counts what it is asked.
type faulty struct {
	table.Table
	err  error
	adds atomic.Int64
}

func (f *faulty) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	f.adds.Add(1)
	if f.err != nil {
		return 0, false, f.err
	}
	return f.Table.Add(ctx, key, deltas, max, expires)
}

// desk is a ledger with what it stands on.
type desk struct {
	*usage.Ledger
	clock *clock
	table *faulty
	log   *bytes.Buffer
}

func newDesk() *desk {
	d := &desk{clock: &clock{}, log: &bytes.Buffer{}}
	d.clock.Set(ten)
	d.table = &faulty{Table: &memory.Table{Now: d.clock.Now}}
	d.Ledger = usage.New(d.table, slog.New(slog.NewTextHandler(d.log, nil)), d.clock.Now)
	return d
}

// ask is GET /usage with a query.
func (d *desk) ask(t *testing.T, query string) (rows []usage.Row, next *string) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := d.List(w, httptest.NewRequest("GET", "/usage?"+query, nil), auth.RootCaller()); err != nil {
		t.Fatal(err)
	}
	var body struct {
		Usage []usage.Row
		Next  *string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatal(err)
	}
	return body.Usage, body.Next
}

func (d *desk) take(t *testing.T, caller string, max int) limit.Decision {
	t.Helper()
	got, err := d.Take(t.Context(), caller, max)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What callers did is what the report says, by caller, agent and hour.
func TestReport(t *testing.T) {
	t.Parallel()
	d := newDesk()
	alice := auth.Caller{ID: "alice"}
	for range 5 {
		d.take(t, "alice", 5)
	}
	d.Ran(t.Context(), alice, "eliza", ten, model.Usage{InputTokens: 10, OutputTokens: 7})
	d.Ran(t.Context(), alice, "eliza", ten, model.Usage{InputTokens: 1, OutputTokens: 2})
	d.Ran(t.Context(), alice, "parrot", ten, model.Usage{})
	for range 3 { // within one second, so that two of them wait
		d.take(t, "alice", 5)
		d.Refused(t.Context(), "alice")
	}
	d.Administered(t.Context(), "root")
	d.clock.Set(ten.Add(90 * time.Minute))
	d.take(t, "bob", 0)
	d.Ran(t.Context(), alice, "eliza", ten.Add(59*time.Minute), model.Usage{InputTokens: 100, OutputTokens: 1}) // it began in the hour before

	eleven := ten.Add(time.Hour)
	want := []usage.Row{
		{Hour: ten, Caller: "alice", Agent: "", Requests: 1, Refused: 3},
		{Hour: ten, Caller: "alice", Agent: "eliza", Requests: 3, InputTokens: 111, OutputTokens: 10},
		{Hour: ten, Caller: "alice", Agent: "parrot", Requests: 1},
		{Hour: ten, Caller: "root", Requests: 1},
		{Hour: eleven, Caller: "bob", Requests: 1},
	}
	for query, rows := range map[string][]usage.Row{
		"":                                 want,
		"key=alice":                        want[:3],
		"key=bob":                          want[4:],
		"key=carol":                        {},
		"from=2026-03-01T11:00:00Z":        want[4:],
		"from=2026-03-01T12:59:00%2B01:00": want[4:],
		"from=2026-03-01T11:59:00%2B01:00": want,
		"to=2026-03-01T11:00:00Z":          want[:4],
		"to=2026-03-01T10:00:00Z":          {},
		"to=2026-03-01T10:00:01Z":          want[:4],
		"from=2026-03-01T10:30:00Z&to=2026-03-01T10:40:00Z":             want[:4],
		"from=2026-02-28T00:00:00Z&to=2026-03-02T00:00:00Z":             want,
		"key=alice&from=2026-03-01T11:00:00Z":                           {},
		"key=alice&to=2026-03-01T10:00:00Z":                             {},
		"key=bob&from=2026-03-01T11:00:00Z&limit=1":                     want[4:],
		"from=2026-02-01T00:00:00Z&to=2026-03-01T09:00:00Z":             {},
		"from=2026-03-01T10:00:00Z&after=2026-03-01T10/alice":           want[3:],
		"after=2026-03-01T10/root":                                      want[4:],
		"after=2026-03-01T11/bob":                                       {},
		"key=alice&after=2026-03-01T10/alice":                           {},
		"key=alice&from=2026-02-26T00:00:00Z&after=2026-01-01T10/alice": want[:3],
	} {
		got, next := d.ask(t, query)
		if diff := cmp.Diff(rows, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
		if (next != nil) != strings.Contains(query, "limit=1") {
			t.Errorf("%q: next is %v", query, next)
		}
	}
	if d.log.Len() != 0 {
		t.Errorf("the log says %s", d.log)
	}
}

// Pages put together are the whole, whatever their size.
func TestPages(t *testing.T) {
	t.Parallel()
	d := newDesk()
	for hour := range 50 {
		d.clock.Set(ten.Add(time.Duration(hour) * time.Hour))
		for c := range hour % 4 {
			d.take(t, fmt.Sprint("caller/", c), 9)
		}
	}
	const span = "from=2026-03-01T00:00:00Z&to=2026-03-10T00:00:00Z&"
	for _, who := range []string{"", "key=caller/1&"} {
		whole, next := d.ask(t, span+who)
		if len(whole) < 20 || next != nil {
			t.Fatalf("%d rows, next %v", len(whole), next)
		}
		for _, size := range []int{1, 2, 7, 100} {
			var got []usage.Row
			for query := span + who + fmt.Sprint("limit=", size); ; {
				rows, next := d.ask(t, query)
				got = append(got, rows...)
				if next == nil {
					break
				}
				query = span + who + fmt.Sprint("limit=", size, "&after=", *next)
			}
			if diff := cmp.Diff(whole, got); diff != "" {
				t.Errorf("%q, pages of %d: %s", who, size, diff)
			}
		}
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	d := newDesk()
	for query, names := range map[string]string{
		"from=yesterday":             "from",
		"to=1":                       "to",
		"since=2026-03-01T10:00:00Z": "since",
		"limit=0":                    "limit",
		"limit=1001":                 "limit",
		"from=2026-03-02T10:00:00Z&to=2026-03-01T10:00:00Z":   "to is before from",
		"from=2026-01-01T00:00:00Z&to=2026-02-02T00:00:00Z":   "31 days",
		"from=2026-01-01T00:00:00Z":                           "31 days",
		"after=x":                                             "after",
		"after=2026-03-01/alice":                              "after",
		"after=2026-03-01T10":                                 "after",
		"key=" + strings.Repeat("x", 513):                     "key",
		"after=2026-03-01T10/" + strings.Repeat("x", 512):     "after",
		"from=2026-03-01T10:00:00Z&from=2026-03-01T10:00:00Z": "from",
	} {
		err := d.List(httptest.NewRecorder(), httptest.NewRequest("GET", "/usage?"+query, nil), auth.RootCaller())
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Code != api.InvalidRequest || !strings.Contains(refused.Detail, names) {
			t.Errorf("%.60s: %v", query, err)
		}
	}
}

// TestExact is P7: many instances over one table admit exactly as many as the
// limit says, and a new one in the same hour admits none.
func TestExact(t *testing.T) {
	t.Parallel()
	d := newDesk()
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		instance := usage.New(d.table, slog.New(slog.DiscardHandler), d.clock.Now)
		all.Go(func() {
			for range 10 {
				got, err := instance.Take(t.Context(), "alice", 100)
				if err != nil {
					t.Error(err)
				} else if got.Admitted {
					admitted.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := admitted.Load(); n != 100 {
		t.Errorf("%d admitted", n)
	}
	if usage.New(d.table, slog.New(slog.DiscardHandler), d.clock.Now); d.take(t, "alice", 100).Admitted {
		t.Error("a restart gives a fresh limit")
	}
	if rows, _ := d.ask(t, ""); len(rows) != 1 || rows[0].Requests != 100 {
		t.Errorf("the report says %v", rows)
	}
}

// A table that fails refuses what has a limit, and what has none: it is counted
// too. The report alone is worth no refusal, but a line in the log.
func TestTableThatFails(t *testing.T) {
	t.Parallel()
	d := newDesk()
	d.table.err = errors.New("on fire")
	for _, max := range []int{0, 5} {
		if got, err := d.Take(t.Context(), "alice", max); err == nil || got.Admitted {
			t.Errorf("max %d: %v, %v", max, got, err)
		}
	}
	for name, count := range map[string]func(){
		"refused":      func() { d.Refused(t.Context(), "alice") },
		"administered": func() { d.Administered(t.Context(), "alice") },
		"ran":          func() { d.Ran(t.Context(), auth.Caller{ID: "alice"}, "eliza", ten, model.Usage{}) },
	} {
		d.log.Reset()
		if count(); !strings.Contains(d.log.String(), "usage not counted") {
			t.Errorf("%s: the log says %q", name, d.log)
		}
	}
	w := httptest.NewRecorder()
	d.table.Table = broken{}
	var refused *api.Error
	if err := d.List(w, httptest.NewRequest("GET", "/usage", nil), auth.RootCaller()); !errors.As(err, &refused) || refused.Code != api.Unavailable {
		t.Errorf("a report of a table that fails: %v", err)
	}
}

type broken struct{ table.Table }

func (broken) List(context.Context, string, table.Query) ([]table.Item, error) {
	return nil, errors.New("on fire")
}

// A caller who has left is counted all the same.
func TestCallerWhoLeft(t *testing.T) {
	t.Parallel()
	d := newDesk()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.Ran(ctx, auth.Caller{ID: "alice"}, "eliza", ten, model.Usage{InputTokens: 3})
	if rows, _ := d.ask(t, ""); len(rows) != 1 || rows[0].InputTokens != 3 {
		t.Errorf("%v", rows)
	}
}

// A flood from who has none left costs the table one write a second.
func TestFloodOfRefusals(t *testing.T) {
	t.Parallel()
	d := newDesk()
	d.take(t, "alice", 1)
	before := d.table.adds.Load()
	for i := range 3000 {
		d.clock.Set(ten.Add(time.Duration(i) * time.Millisecond))
		if d.take(t, "alice", 1).Admitted {
			t.Fatal("admitted")
		}
		d.Refused(t.Context(), "alice")
	}
	if n := d.table.adds.Load() - before; n > 5 {
		t.Errorf("3000 refusals in three seconds cost %d writes", n)
	}
	if rows, _ := d.ask(t, ""); len(rows) != 1 || rows[0].Refused != 3000 {
		t.Errorf("%v", rows)
	}
	d.clock.Set(ten.Add(time.Hour)) // refusals belong to their own hour
	d.Refused(t.Context(), "alice")
	if rows, _ := d.ask(t, "from=2026-03-01T11:00:00Z"); len(rows) != 1 || rows[0].Refused != 1 {
		t.Errorf("%v", rows)
	}
}

func TestLastUsed(t *testing.T) {
	t.Parallel()
	d := newDesk()
	last := func() time.Time {
		at, err := d.LastUsed(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if at := last(); !at.IsZero() {
		t.Errorf("never used: %s", at)
	}
	for i, use := range []func(){
		func() { d.take(t, "alice", 9) },
		func() { d.Administered(t.Context(), "alice") },
		func() { d.take(t, "alice", 0) },
	} {
		at := ten.Add(time.Duration(i) * 61 * time.Minute)
		d.clock.Set(at.Add(time.Second/2 + 1))
		use()
		d.take(t, "bob", 9)
		if got := last(); !got.Equal(at) {
			t.Errorf("use %d: %s, want %s", i, got, at)
		}
	}
	d.clock.Set(ten.Add(usage.Keep + 4*time.Hour))
	if at := last(); !at.IsZero() {
		t.Errorf("long ago: %s", at)
	}
}

func BenchmarkTake(b *testing.B) {
	l := usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Take(b.Context(), "client-1a2b3c4d", 1_000_000_000)
	}
}
