package usage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

var _ agents.Budget = (*usage.Budget)(nil)

// purse is a Budget with what it stands on.
type purse struct {
	*usage.Budget
	clock *clock
	table *faulty
	log   *bytes.Buffer
}

func newPurse() *purse {
	p := &purse{clock: &clock{}, log: &bytes.Buffer{}}
	p.clock.Set(ten)
	p.table = &faulty{Table: &memory.Table{Now: p.clock.Now}}
	p.Budget = &usage.Budget{Table: p.table, Log: slog.New(slog.NewTextHandler(p.log, nil)), Now: p.clock.Now}
	return p
}

// alice has so many tokens a day.
func alice(daily int) auth.Caller { return auth.Caller{ID: "alice", TokensPerDay: &daily} }

// reserve is a reservation that must be granted in full.
func (p *purse) reserve(t *testing.T, daily int, amount int64) func(context.Context, int64) {
	t.Helper()
	granted, settle, err := p.Reserve(t.Context(), alice(daily), amount, amount)
	if err != nil || granted != amount {
		t.Fatalf("of %d tokens %d are granted: %v", amount, granted, err)
	}
	return settle
}

// refused is a reservation that must not be granted, and returns its error.
func (p *purse) refused(t *testing.T, daily int, least int64, code api.Code) *api.Error {
	t.Helper()
	granted, settle, err := p.Reserve(t.Context(), alice(daily), least, least)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || granted != 0 || settle != nil {
		t.Fatalf("of %d tokens %d are granted: %v", least, granted, err)
	}
	return e
}

// stands is what counts as used on the day of ten.
func (p *purse) stands(t *testing.T) int64 {
	t.Helper()
	item, err := p.table.Get(t.Context(), table.Key{Partition: "budget#alice", Sort: "2026-03-01"})
	if err != nil && !errors.Is(err, table.ErrNotFound) {
		t.Fatal(err)
	}
	return item.Counters["tokens"]
}

// Contract §5: what is granted of a budget of 1000, and where it stands then.
func TestReservations(t *testing.T) {
	t.Parallel()
	const unknown = -1 // nobody settles
	for _, row := range []struct {
		name        string
		before      int64 // used before
		least, most int64
		granted     int64 // 0: refused
		used        int64
		stands      int64
		told        string // of the refusal
	}{
		{"all that is asked for", 0, 300, 900, 900, 250, 250, ""},
		{"all there is", 0, 1000, 1000, 1000, 1000, 1000, ""},
		{"one more than there is", 0, 300, 1001, 1000, 10, 10, ""},
		{"what is left", 500, 300, 900, 500, 20, 520, ""},
		{"exactly the least", 700, 300, 900, 300, 20, 720, ""},
		{"one less than the least", 701, 300, 900, 0, 0, 701, "300 tokens set aside, and 299 of the 1000"},
		{"the last one", 999, 1, 900, 1, 1, 1000, ""},
		{"none left", 1000, 1, 900, 0, 0, 1000, "1 tokens set aside, and 0 of the 1000"},
		{"less than none left", 1500, 1, 900, 0, 0, 1500, "1 tokens set aside, and 0 of the 1000"},
		{"more than a day has", 0, 1001, 1001, 0, 0, 0, "1001 tokens set aside, which is more than the 1000 of any day"},
		{"nothing used: all is given back", 100, 300, 500, 500, 0, 100, ""},
		{"all used", 100, 300, 500, 500, 500, 600, ""},
		{"more used than reserved is charged", 100, 300, 500, 500, 700, 800, ""},
		{"even beyond the budget", 100, 300, 900, 900, 5000, 5100, ""},
		{"nobody knows: what was reserved stays", 100, 300, 500, 500, unknown, 600, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newPurse()
			if row.before > 0 {
				p.reserve(t, 1, 1)(t.Context(), row.before)
			}
			granted, settle, err := p.Reserve(t.Context(), alice(1000), row.least, row.most)
			if granted != row.granted || (err == nil) != (row.told == "") {
				t.Fatalf("%d are granted, want %d: %v", granted, row.granted, err)
			}
			if row.told != "" {
				var e *api.Error
				if !errors.As(err, &e) || e.Code != api.BudgetExceeded || !strings.Contains(e.Detail, row.told) {
					t.Errorf("refused with %+v, want %s", err, row.told)
				}
			} else if stands := p.stands(t); stands != row.before+granted {
				t.Errorf("while it is reserved it stands at %d", stands)
			} else if row.used != unknown {
				settle(t.Context(), row.used)
			}
			if stands := p.stands(t); stands != row.stands {
				t.Errorf("it stands at %d, want %d", stands, row.stands)
			}
		})
	}
}

// The day is UTC's, Retry-After its true end, and a call counts in the day in
// which it began.
func TestTheBudgetsDay(t *testing.T) {
	t.Parallel()
	midnight := ten.Truncate(24 * time.Hour).Add(24 * time.Hour)
	p := newPurse()
	settle := p.reserve(t, 1000, 1000)
	for _, row := range []struct {
		at    time.Time
		retry time.Duration
	}{
		{ten, 14 * time.Hour},
		{ten.In(time.FixedZone("east", 5*3600)), 14 * time.Hour},
		{midnight.Add(-time.Second), time.Second},
		{midnight.Add(-1500 * time.Millisecond), 2 * time.Second},
		{midnight.Add(-1), time.Second},
	} {
		p.clock.Set(row.at)
		if e := p.refused(t, 1000, 1, api.BudgetExceeded); e.RetryAfter != row.retry {
			t.Errorf("at %s: Retry-After %s, want %s", row.at, e.RetryAfter, row.retry)
		}
	}
	p.clock.Set(midnight)
	p.reserve(t, 1000, 1000)
	settle(t.Context(), 400)
	p.refused(t, 1000, 1, api.BudgetExceeded) // the new day's are not what was given back
	if stands := p.stands(t); stands != 400 {
		t.Errorf("the old day stands at %d, want 400", stands)
	}
	p.clock.Set(midnight.Add(24 * time.Hour)) // and it is not kept for ever
	if _, err := p.table.Get(t.Context(), table.Key{Partition: "budget#alice", Sort: "2026-03-01"}); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("two days later it is still there: %v", err)
	}
}

// A budget holds from the moment on in which it was changed, and is its
// caller's alone.
func TestAChangedBudget(t *testing.T) {
	t.Parallel()
	p := newPurse()
	p.reserve(t, 1000, 600)
	p.refused(t, 600, 1, api.BudgetExceeded)
	p.refused(t, 100, 1, api.BudgetExceeded) // lowered below what is used
	p.reserve(t, 700, 100)
	p.refused(t, 700, 1, api.BudgetExceeded)
	p.refused(t, 0, 1, api.BudgetExceeded)
	p.reserve(t, 2000, 1300)
	bob := auth.Caller{ID: "bob", TokensPerDay: new(int)}
	*bob.TokensPerDay = 5
	if granted, _, err := p.Reserve(t.Context(), bob, 1, 9); err != nil || granted != 5 {
		t.Errorf("bob is granted %d: %v", granted, err)
	}
}

// A table that fails: nothing runs that can't be reserved, and a refund that is
// lost stays reserved, with a line in the log.
func TestABudgetFailsClosed(t *testing.T) {
	t.Parallel()
	p := newPurse()
	settle := p.reserve(t, 1000, 800)
	p.table.err = errors.New("table is on fire")
	if e := p.refused(t, 1000, 100, api.Unavailable); !errors.Is(e, p.table.err) {
		t.Errorf("the log isn't told why: %v", e)
	}
	if p.log.Len() > 0 {
		t.Errorf("the log: %s", p.log)
	}
	asked := p.table.adds.Load()
	settle(t.Context(), 10)
	if n := p.table.adds.Load() - asked; n != 1 {
		t.Errorf("what is given back was sent %d times", n)
	}
	p.table.err = nil
	if stands := p.stands(t); stands != 800 {
		t.Errorf("it stands at %d, want the 800 that were reserved", stands)
	}
	for _, want := range []string{"level=WARN", "token budget not settled", "budget#alice 2026-03-01", "tokens=-790", "table is on fire"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log has no %q: %s", want, p.log)
		}
	}
}

// What a caller who has left didn't use is given back too.
func TestSettlingOutlivesTheCaller(t *testing.T) {
	t.Parallel()
	p := newPurse()
	ctx, leave := context.WithCancel(t.Context())
	_, settle, err := p.Reserve(ctx, alice(1000), 500, 500)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	settle(ctx, 20)
	if stands := p.stands(t); stands != 20 {
		t.Errorf("it stands at %d, want 20", stands)
	}
	asked := p.table.adds.Load()
	p.reserve(t, 1000, 7)(t.Context(), 7)
	if n := p.table.adds.Load() - asked; n != 1 {
		t.Errorf("a call that used what it reserved was %d writes, want one", n)
	}
}

// nimble is a table of which somebody takes a token before each of our Adds.
type nimble struct{ table.Table }

func (n nimble) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	n.Table.Add(ctx, key, []table.Delta{{Counter: deltas[0].Counter, By: 1}}, max, expires)
	return n.Table.Add(ctx, key, deltas, max, expires)
}

// Who asks for what is left while others take of it doesn't ask for ever, nor is
// told that nothing is left.
func TestTheRestIsContested(t *testing.T) {
	t.Parallel()
	p := newPurse()
	p.Budget.Table = nimble{p.table}
	_, _, err := p.Reserve(t.Context(), alice(1000), 100, 5000)
	if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.Unavailable {
		t.Errorf("%v", err)
	}
	if n := p.table.adds.Load(); n > 10 {
		t.Errorf("it took %d writes", n)
	}
}

// Issue 5, P7's like: whoever shares the table and however many calls run at once,
// never is more reserved and used than the budget, and in the end exactly that is
// counted which was used, or may have been.
func TestABudgetIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	const daily, clients, instances = 10_000, 64, 4
	now := func() time.Time { return ten }
	shared := &memory.Table{Now: now}
	var held, used, kept, refused atomic.Int64 // held: reserved, or used and settled
	var all sync.WaitGroup
	var processes [instances]*usage.Budget
	for i := range processes {
		processes[i] = &usage.Budget{Table: shared, Log: slog.New(slog.DiscardHandler), Now: now}
	}
	for i := range clients {
		b := processes[i%instances]
		dice := rand.New(rand.NewPCG(1, uint64(i)))
		all.Go(func() {
			for range 20 {
				granted, settle, err := b.Reserve(t.Context(), alice(daily), 100, 1500)
				if err != nil {
					refused.Add(1)
					continue
				}
				if n := held.Add(granted); n > daily {
					t.Errorf("%d tokens are set aside", n)
				}
				n := dice.Int64N(granted + 1)
				switch dice.IntN(4) {
				case 0: // nobody was there
					held.Add(-granted)
					settle(t.Context(), 0)
				case 1: // nobody knows
					if kept.Load() < daily/4 {
						kept.Add(granted)
						continue
					}
					fallthrough
				default:
					n /= 20
					used.Add(n)
					held.Add(n - granted)
					settle(t.Context(), n)
				}
			}
		})
	}
	all.Wait()
	item, err := shared.Get(t.Context(), table.Key{Partition: "budget#alice", Sort: "2026-03-01"})
	if stands := item.Counters["tokens"]; err != nil || stands != used.Load()+kept.Load() || stands > daily {
		t.Errorf("%d tokens are counted, %d were used and of %d nobody knows: %v", stands, used.Load(), kept.Load(), err)
	}
	if refused.Load() == 0 || used.Load() == 0 || kept.Load() == 0 {
		t.Errorf("%d refused, %d used, %d kept: this test says nothing", refused.Load(), used.Load(), kept.Load())
	}
}
