package agents_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

// noon is in the middle of a day: twelve hours are left.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// withBudget is a caller who may use everything, and so many tokens a day.
func withBudget(daily int) auth.Caller {
	c := auth.RootCaller()
	c.ID, c.TokensPerDay = "key", &daily
	return c
}

// counted is a budget at noon over a table, and what it is asked for and told.
type counted struct {
	usage.Budget
	asked   []string // "least-most"
	settled []int64
}

func (c *counted) Reserve(ctx context.Context, caller auth.Caller, least, most int64) (int64, func(context.Context, int64), error) {
	c.asked = append(c.asked, fmt.Sprintf("%d-%d", least, most))
	granted, settle, err := c.Budget.Reserve(ctx, caller, least, most)
	return granted, func(ctx context.Context, used int64) {
		c.settled = append(c.settled, used)
		settle(ctx, used)
	}, err
}

func newCounted() *counted {
	return &counted{Budget: budgetOver(&memory.Table{Now: clockAtNoon})}
}

func budgetOver(t table.Table) usage.Budget {
	return usage.Budget{Table: t, Log: slog.New(slog.DiscardHandler), Now: clockAtNoon}
}

func clockAtNoon() time.Time { return noon }

// stands is what counts of the caller's day.
func stands(t testing.TB, in table.Table) int64 {
	t.Helper()
	item, err := in.Get(t.Context(), table.Key{Partition: "budget#key", Sort: "2026-03-01"})
	if err != nil && !errors.Is(err, table.ErrNotFound) {
		t.Fatal(err)
	}
	return item.Counters["tokens"]
}

// Contract §5: what is reserved for a call, and the bound that its model gets. The
// system prompt is "0123456789", 10 bytes, and the template around a message and
// around all of them 64 each.
func TestWhatACallReserves(t *testing.T) {
	t.Parallel()
	hello := agents.Ask("hello")
	bounded := func(n int) agents.Input {
		in := hello
		in.MaxTokens = n
		return in
	}
	for _, row := range []struct {
		name   string
		caller auth.Caller
		in     agents.Input
		asked  string // "": nobody
		bound  int    // the model's MaxTokens; -1: it isn't asked
	}{
		{"a caller without a budget", auth.RootCaller(), hello, "", 0},
		{"and with a bound of its own", auth.RootCaller(), bounded(7), "", 7},
		{"a whole answer", withBudget(100_000), hello, "399-4239", 4096},
		{"all of the budget", withBudget(4239), hello, "399-4239", 4096},
		{"a token less", withBudget(4238), hello, "399-4239", 4095},
		{"the least of an answer", withBudget(399), hello, "399-4239", 256},
		{"less than that", withBudget(398), hello, "399-4239", -1},
		{"a budget of nothing", withBudget(0), hello, "399-4239", -1},
		{"bytes and not characters", withBudget(100_000), agents.Ask("héllo 🙂"), "405-4245", 4096},
		{"a conversation", withBudget(100_000), agents.Input{Messages: []model.Message{
			{Role: model.User, Text: "hi"}, {Role: model.Assistant, Text: "what?"}, {Role: model.User, Text: "hello"}}}, "534-4374", 4096},
		{"a bound of the caller's", withBudget(100_000), bounded(7), "150-150", 7},
		{"that fits exactly", withBudget(150), bounded(7), "150-150", 7},
		{"that is never lowered", withBudget(149), bounded(7), "150-150", -1},
		{"above ours", withBudget(100_000), bounded(50_000), "50143-50143", 50_000},
		{"above any", withBudget(math.MaxInt), bounded(math.MaxInt), "2147483791-2147483791", 1 << 31},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, budget := &script{}, newCounted()
			runner := agents.Runner{File: mustParse(t, `agents: {a: {instructions: "0123456789", llm: test/x}}`), Models: s.models(), Budget: budget}
			what, _ := runner.Find(row.caller, "a")
			_, err := collect(runner.Run(t.Context(), what, row.in))
			if asked := strings.Join(budget.asked, " "); asked != row.asked {
				t.Errorf("asked for %q, want %q", asked, row.asked)
			}
			if row.bound < 0 {
				if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.BudgetExceeded || e.RetryAfter != 12*time.Hour || len(s.asked) > 0 {
					t.Errorf("%d models were asked: %v", len(s.asked), err)
				}
				return
			}
			if err != nil || len(s.asked) != 1 || s.asked[0].MaxTokens != row.bound {
				t.Errorf("the models were asked %+v: %v", s.asked, err)
			}
			if row.asked != "" && !slices.Equal(budget.settled, []int64{9}) {
				t.Errorf("settled as %v, want the 9 that the model tells", budget.settled)
			}
		})
	}
}

// A model is asked for one call's tokens once, for whom they are counted.
func TestABudgetIsForOneCall(t *testing.T) {
	t.Parallel()
	for _, caller := range []auth.Caller{auth.RootCaller(), withBudget(10_000)} {
		var once []bool
		m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			once = append(once, req.Once)
			says("x")(ctx, req, yield)
		})
		runner := agents.Runner{File: mustParse(t, threeAgents), Models: agents.Models{"test": m}, Budget: newCounted()}
		what, _ := runner.Find(caller, "")
		if _, err := collect(runner.Run(t.Context(), what, agents.Ask("m"))); err != nil || !slices.Equal(once, []bool{caller.TokensPerDay != nil}) {
			t.Errorf("%s: once %v, error %v", caller.ID, once, err)
		}
	}
}

// What a call is settled as, however it ends; nothing: what was reserved stands.
func TestHowACallIsSettled(t *testing.T) {
	t.Parallel()
	tells := func(in, out int) part {
		return saysThen(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: in, OutputTokens: out}}, nil, "x")
	}
	wrapped := fmt.Errorf("%w: status 429", model.ErrUnavailable)
	file := mustParse(t, "agents: {a: {role: r, llm: test/x}}")
	read := int64(64 + len(file.Agents[0].SystemPrompt()) + 64 + len("m")) // all that the model is told
	for _, row := range []struct {
		name  string
		model part
		want  []int64
	}{
		{"as the model tells", tells(7, 2), []int64{9}},
		{"with input alone", tells(7, 0), []int64{7}},
		{"with more than was reserved", tells(90_000, 1), []int64{90_001}},
		{"with nothing, which is no measure", tells(0, 0), nil},
		{"with less than nothing", tells(-7, -2), nil},
		{"nobody was there", failsAfter(wrapped), []int64{0}},
		{"nobody was there any more", failsAfter(wrapped, "half"), nil},
		{"it took not that much", failsAfter(fmt.Errorf("%w: status 400", model.ErrTooLong)), []int64{0}},
		{"it refused", failsAfter(fmt.Errorf("%w: status 400", model.ErrRefused)), []int64{read}},
		{"it refused in the middle", failsAfter(model.ErrRefused, "half"), nil},
		{"it failed", failsAfter(model.ErrFailed), nil},
		{"it failed in the middle", failsAfter(model.ErrFailed, "half"), nil},
		{"it was too slow", failsAfter(model.ErrTimeout), nil},
		{"it was cut off", breaksOff("half"), nil},
		{"it was cut off at once", breaksOff(), nil},
		{"its context ended", failsAfter(context.Canceled), nil},
		{"another error", failsAfter(errors.New("x")), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			budget := newCounted()
			runner := agents.Runner{File: file, Models: agents.Models{"test": row.model}, Budget: budget}
			what, _ := runner.Find(withBudget(100_000), "a")
			collect(runner.Run(t.Context(), what, agents.Ask("m")))
			if diff := cmp.Diff(row.want, budget.settled); diff != "" {
				t.Errorf("settled as (-want +got):\n%s", diff)
			}
			if len(row.want) == 1 && stands(t, budget.Table) != row.want[0] {
				t.Errorf("the day stands at %d", stands(t, budget.Table))
			}
		})
	}
	t.Run("the consumer left", func(t *testing.T) {
		t.Parallel()
		budget := newCounted()
		runner := agents.Runner{File: mustParse(t, "agents: {a: {role: r, llm: test/x}}"), Models: agents.Models{"test": says("x", "y")}, Budget: budget}
		what, _ := runner.Find(withBudget(100_000), "a")
		for range runner.Run(t.Context(), what, agents.Ask("m")) {
			break
		}
		if budget.settled != nil {
			t.Errorf("settled as %v", budget.settled)
		}
	})
	t.Run("there is no such model", func(t *testing.T) {
		t.Parallel()
		budget := newCounted()
		runner := agents.Runner{File: mustParse(t, "agents: {a: {role: r, llm: test/x}}"), Budget: budget}
		what, _ := runner.Find(withBudget(100_000), "a")
		if _, err := collect(runner.Run(t.Context(), what, agents.Ask("m"))); !errors.Is(err, model.ErrUnavailable) || stands(t, budget.Table) != 0 {
			t.Errorf("the day stands at %d: %v", stands(t, budget.Table), err)
		}
	})
}

// A caller with a budget runs nothing where nobody counts.
func TestABudgetThatNobodyCounts(t *testing.T) {
	t.Parallel()
	s := &script{}
	runner := agents.Runner{File: mustParse(t, "agents: {a: {role: r, llm: test/x}}"), Models: s.models()}
	what, _ := runner.Find(withBudget(100_000), "a")
	_, err := collect(runner.Run(t.Context(), what, agents.Ask("m")))
	if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.Unavailable || len(s.asked) > 0 {
		t.Errorf("%d models were asked: %v", len(s.asked), err)
	}
}

// threeSteps is a workflow of one agent.
const threeSteps = "agents: {a: {role: r, llm: test/x}}\nsteps: [{agent: a, action: one}, {agent: a, action: two}, {agent: a, action: three}]"

// Each step of a workflow reserves for itself, the results before it are a part
// of that, and a caller's bound is the last one's.
func TestEachStepReserves(t *testing.T) {
	t.Parallel()
	s, budget := &script{answers: []string{"first", "second", "third"}}, newCounted()
	runner := agents.Runner{File: mustParse(t, threeSteps), Models: s.models(), Budget: budget}
	what, _ := runner.Find(withBudget(100_000), "")
	in := agents.Ask("m")
	in.MaxTokens = 50
	if _, err := collect(runner.Run(t.Context(), what, in)); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, req := range s.asked {
		told := 2*64 + len(req.System) + len(req.Messages[0].Text)
		least, most := told+256, told+4096
		if i == 2 {
			least, most = told+50, told+50
		}
		want = append(want, fmt.Sprintf("%d-%d", least, most))
	}
	if diff := cmp.Diff(want, budget.asked); diff != "" || len(want) != 3 {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if len(s.prompts()[2]) <= len(s.prompts()[0]) || s.asked[0].MaxTokens != 4096 || s.asked[2].MaxTokens != 50 {
		t.Errorf("the models were asked %+v", s.asked)
	}
	if stands(t, budget.Table) != 27 || len(budget.settled) != 3 {
		t.Errorf("settled as %v", budget.settled)
	}
}

// A budget that is spent in the middle of a workflow ends it there: as a response
// of its own, or as the last event of a stream that has begun.
func TestABudgetSpentInTheMiddle(t *testing.T) {
	t.Parallel()
	costly := saysThen(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 100, OutputTokens: 800}}, nil, "x")
	serve := func(budget agents.Budget) *site {
		return siteOf(t, &agents.Chat{File: mustParse(t, threeSteps), Models: agents.Models{"test": costly}, Timeout: time.Minute, Budget: budget}, withBudget(1200))
	}
	budget := newCounted()
	got := serve(budget).chat(asking("m"))
	if p := got.problem(t); got.Status != 429 || p.Error != "Token budget exceeded" || got.Header.Get("Retry-After") != "43200" {
		t.Errorf("%d, Retry-After %q: %s", got.Status, got.Header.Get("Retry-After"), got.Body)
	}
	if !slices.Equal(budget.settled, []int64{900}) || len(budget.asked) != 2 || stands(t, budget.Table) != 900 {
		t.Errorf("asked for %v, settled as %v", budget.asked, budget.settled)
	}

	got = serve(newCounted()).chat(asking("m"), "Accept: text/event-stream")
	events := strings.Split(strings.TrimSuffix(got.Body, "\n\n"), "\n\n")
	name, data, _ := strings.Cut(events[len(events)-1], "\ndata: ")
	if p := readProblem(t, data); got.Status != 200 || name != "event: error" || p.Status != 429 || p.Error != "Token budget exceeded" {
		t.Errorf("%d: %s", got.Status, got.Body)
	}

	empty := newCounted()
	empty.Reserve(t.Context(), withBudget(1200), 1, 1200)
	got = serve(empty).chat(asking("m"), "Accept: text/event-stream") // which has not begun
	if got.problem(t).Status != 429 || got.Status != 429 {
		t.Errorf("%d: %s", got.Status, got.Body)
	}
}

// Issue 5: 10,000 tokens, 64 concurrent runs of unknown length in several
// processes. What models use never comes to more, and what failed cleanly is given
// back. A model uses what it says, and sometimes doesn't get to say it: at worst a
// token for each byte that it was told, and its bound.
func TestABudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const daily, runs, processes = 10_000, 64, 4
	shared := &memory.Table{Now: clockAtNoon}
	caller := withBudget(daily)
	var untold atomic.Bool
	var used, absent, answered, refused atomic.Int64
	play := func(req model.Request, dice *rand.Rand, yield func(model.Event, error) bool) {
		if req.MaxTokens <= 0 {
			t.Errorf("a model was given no bound")
		}
		in, out := 64+len(req.System)+64+len(req.Messages[0].Text), min(req.MaxTokens, dice.IntN(300))
		switch dice.IntN(8) {
		case 0, 1:
			absent.Add(1)
			yield(model.Event{}, model.ErrUnavailable)
			return
		case 2:
			if untold.CompareAndSwap(false, true) { // of one call nobody knows
				used.Add(int64(in + req.MaxTokens))
				yield(model.Event{}, model.ErrTimeout)
				return
			}
		}
		used.Add(int64(in + out))
		_ = yield(model.Event{Text: "x"}, nil) && yield(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: in, OutputTokens: out}}, nil)
	}
	file := mustParse(t, "agents: {a: {role: r, llm: test/x}}")
	var budgets [processes]usage.Budget
	for i := range budgets {
		budgets[i] = budgetOver(shared)
	}
	var all sync.WaitGroup
	for i := range runs {
		dice := rand.New(rand.NewPCG(5, uint64(i)))
		m := part(func(_ context.Context, req model.Request, yield func(model.Event, error) bool) {
			play(req, dice, yield)
		})
		runner := agents.Runner{File: file, Models: agents.Models{"test": m}, Budget: &budgets[i%processes]}
		what, _ := runner.Find(caller, "a")
		all.Go(func() {
			for range 20 {
				_, err := collect(runner.Run(t.Context(), what, agents.Ask("how long will this be?")))
				if e := (*api.Error)(nil); errors.As(err, &e) {
					refused.Add(1)
				} else if err == nil {
					answered.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n, got := used.Load(), stands(t, shared); n > daily || got != n {
		t.Errorf("%d tokens of %d were used, %d are counted", n, daily, got)
	}
	if answered.Load() < 10 || refused.Load() == 0 || absent.Load() == 0 {
		t.Errorf("%d answered, %d refused, %d found nobody: this test says nothing", answered.Load(), refused.Load(), absent.Load())
	}
}

// The reply's own error is the contract's, whoever asks it.
func TestTheBudgetsRefusalOfAChat(t *testing.T) {
	t.Parallel()
	s := siteOf(t, &agents.Chat{File: mustParse(t, threeAgents), Models: agents.Models{"test": says("x")}, Timeout: time.Minute, Budget: newCounted()}, withBudget(10))
	got := s.chat(asking("hello"))
	p := got.problem(t)
	if got.Status != 429 || got.Header.Get("Retry-After") != "43200" || !strings.Contains(p.Detail, "more than the 10 of any day: ask for less") {
		t.Errorf("%d: %s", got.Status, got.everything())
	}
	if strings.Contains(got.everything(), canary) || !json.Valid([]byte(got.Body)) {
		t.Errorf("I15: %s", got.everything())
	}
	if line := s.log.line(t); line["reason"] != "budget" || line["decision"] != "deny" || line["caller"] != "key" {
		t.Errorf("the log line is %v", line)
	}
}

// watched is a budget whose refusals are counted.
type watched struct {
	usage.Budget
	refused atomic.Int32
}

func (w *watched) Reserve(ctx context.Context, caller auth.Caller, least, most int64) (int64, func(context.Context, int64), error) {
	granted, settle, err := w.Budget.Reserve(ctx, caller, least, most)
	if err != nil {
		w.refused.Add(1)
	}
	return granted, settle, err
}

// Who asks many things at once may find the budget full in the middle. What runs
// then has its tokens set aside: it ends, and gives back what it didn't use. On
// that the others wait, and where it isn't enough they are refused; nobody is told
// of a run that the budget refused.
func TestABudgetFullInTheMiddleOfManyAnswers(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		used    model.Usage
		refused bool
		told    int32
		stands  int64
	}{
		"and enough is given back": {model.Usage{InputTokens: 5, OutputTokens: 4}, false, 8, 72},
		"and nothing is":           {model.Usage{}, true, 2, 2 * (64 + 12 + 64 + 1 + 1000)},
		"and too little is":        {model.Usage{InputTokens: 5, OutputTokens: 1000}, true, 2, 2 * 1005},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := &memory.Table{Now: clockAtNoon}
			budget := &watched{Budget: budgetOver(table)}
			var running sync.WaitGroup
			running.Add(2)
			var calls atomic.Int32
			slow := part(func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
				if calls.Add(1) <= 2 {
					running.Done()
					running.Wait() // the third has no room while these two run
					for budget.refused.Load() == 0 && ctx.Err() == nil {
						runtime.Gosched()
					}
				}
				if ctx.Err() != nil {
					yield(model.Event{}, ctx.Err())
					return
				}
				yield(model.Event{Stop: model.EndTurn, Usage: row.used}, nil)
			})
			var told atomic.Int32
			chat := &agents.Chat{File: mustParse(t, "agents: {a: {role: r, llm: test/x}}"), Models: agents.Models{"test": slow}, Budget: budget, Timeout: time.Minute,
				Ran: func(context.Context, auth.Caller, string, time.Time, model.Usage) { told.Add(1) }}
			in := agents.Ask("m")
			in.MaxTokens = 1000
			_, err := chat.Answers(t.Context(), withBudget(2500), "a", in, in, in, in, in, in, in, in)
			if (api.CodeOf(err) == api.BudgetExceeded) != row.refused || !row.refused && err != nil {
				t.Errorf("the answer is %v", err)
			}
			if n := stands(t, table); n != row.stands {
				t.Errorf("the day stands at %d, want %d", n, row.stands)
			}
			if n := told.Load(); n != row.told {
				t.Errorf("told of %d runs, want %d", n, row.told)
			}
		})
	}
}

// lateRefusal has room for all but the second, whose refusal arrives when the
// first has given its tokens back.
type lateRefusal struct {
	asked         atomic.Int32
	came, settled chan struct{}
}

func (l *lateRefusal) Reserve(context.Context, auth.Caller, int64, int64) (int64, func(context.Context, int64), error) {
	switch l.asked.Add(1) {
	case 1:
		return 5000, func(context.Context, int64) { close(l.settled) }, nil
	case 2:
		close(l.came)
		<-l.settled
		time.Sleep(time.Second) // so that the first has ended
		return 0, nil, api.Fail(api.BudgetExceeded, "none")
	}
	return 5000, func(context.Context, int64) {}, nil
}

// Who ended before a refusal arrived has given back what it didn't use, too.
func TestALateRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := &lateRefusal{came: make(chan struct{}), settled: make(chan struct{})}
		m := part(func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
			<-budget.came
			yield(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 1}}, nil)
		})
		chat := &agents.Chat{File: mustParse(t, threeAgents), Models: agents.Models{"test": m}, Budget: budget, Timeout: time.Minute}
		if _, err := chat.Answers(t.Context(), withBudget(5000), "", agents.Ask("m"), agents.Ask("m")); err != nil {
			t.Error(err)
		}
	})
}

// What has begun isn't run again for want of a budget: a workflow's first step
// would be paid for twice.
func TestAWorkflowOutOfBudgetIsNotRunAgain(t *testing.T) {
	t.Parallel()
	const file = "agents: {a: {role: r, llm: test/x}}\nsteps: [{agent: a, action: '{{input}}'}, {agent: a, action: then}]"
	budget := &watched{Budget: budgetOver(&memory.Table{Now: clockAtNoon})}
	begun := make(chan struct{})
	var calls atomic.Int32
	m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		used := model.Usage{InputTokens: 1} // the rest is given back
		switch text := req.Messages[0].Text; {
		case strings.Contains(text, "quick"):
			<-begun
			calls.Add(1)
			used = model.Usage{} // nobody knows
		case strings.Contains(text, "slow"):
			close(begun)
			for budget.refused.Load() == 0 && ctx.Err() == nil {
				runtime.Gosched()
			}
		}
		yield(model.Event{Stop: model.EndTurn, Usage: used}, nil)
	})
	chat := &agents.Chat{File: mustParse(t, file), Models: agents.Models{"test": m}, Budget: budget, Timeout: time.Minute}
	_, err := chat.Answers(t.Context(), withBudget(5000), "", agents.Ask("slow"), agents.Ask("quick"))
	if api.CodeOf(err) != api.BudgetExceeded || calls.Load() != 1 {
		t.Errorf("%d calls: %v", calls.Load(), err)
	}
}
