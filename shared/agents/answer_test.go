package agents_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

func newChat(t testing.TB, m model.Model, timeout time.Duration) *agents.Chat {
	t.Helper()
	file, err := parse(threeAgents)
	if err != nil {
		t.Fatal(err)
	}
	return &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: timeout}
}

// inputs are n questions, each its number.
func inputs(n int) (list []agents.Input) {
	for i := range n {
		list = append(list, agents.Ask(fmt.Sprint(i)))
	}
	return list
}

// code is what err is to the api's error table.
func code(t testing.TB, err error) api.Code {
	t.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		t.Fatalf("%v is of no code", err)
	}
	return e.Code
}

// Some run at a time, and come back in their inputs' order.
func TestAnswersAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			number := req.Messages[0].Text
			time.Sleep(time.Duration(10-len(number)) * time.Second)
			says("no. ", number)(ctx, req, yield)
		})
		answers, err := newChat(t, m, time.Minute).Answers(t.Context(), auth.RootCaller(), "clerk", inputs(20)...)
		if err != nil || len(answers) != 20 || most.Load() != 8 {
			t.Fatalf("%d answers, %v, %d at a time", len(answers), err, most.Load())
		}
		for i, a := range answers {
			if a.Text != fmt.Sprint("no. ", i) || a.Agent != "clerk" || a.Model.String() != "test/two" || a.Stop != model.EndTurn || a.Usage.InputTokens != 7 {
				t.Errorf("answer %d is %+v", i, a)
			}
		}
	})
}

// CHAT_TIMEOUT is a request's, however many answers it wants.
func TestAnswersAreBoundedInTime(t *testing.T) {
	for _, row := range []struct {
		name     string
		deadline time.Duration // of the request; 0: none
		want     time.Duration
		began    int64
	}{
		{"one machine", 0, time.Minute, 24}, // three times eight in 25 s each
		{"a Lambda's deadline", 30 * time.Second, 25 * time.Second, 16},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var began atomic.Int64
				m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
					began.Add(1)
					select {
					case <-time.After(24 * time.Second):
						says("x")(ctx, req, yield)
					case <-ctx.Done():
						yield(model.Event{}, ctx.Err())
					}
				})
				ctx := t.Context()
				if row.deadline != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, row.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := newChat(t, m, time.Minute).Answers(ctx, auth.RootCaller(), "", inputs(100)...)
				if took := time.Since(start); code(t, err) != api.ModelTimeout || took != row.want {
					t.Errorf("%v after %v, want %v", err, took, row.want)
				}
				if began.Load() != row.began {
					t.Errorf("%d began, want %d", began.Load(), row.began)
				}
			})
		})
	}
}

// One request's answers take up only so much memory together, and who exceeds it
// takes the others with it.
func TestAnswersAreBoundedInSize(t *testing.T) {
	const MiB = 1 << 20
	for _, row := range []struct {
		name         string
		inputs, size int // of each answer, in MiB
		fails        bool
	}{
		{"two of four", 2, 4, false},
		{"eight of one", 8, 1, false},
		{"three of four", 3, 4, true},
		{"a hundred of four", 100, 4, true},
		{"one of nine", 1, 9, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			piece := strings.Repeat("x", MiB)
			var yielded atomic.Int64
			m := part(func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
				for range row.size {
					if ctx.Err() != nil {
						yield(model.Event{}, ctx.Err())
						return
					}
					yielded.Add(1)
					if !yield(model.Event{Text: piece}, nil) {
						return
					}
				}
				yield(stop, nil)
			})
			answers, err := newChat(t, m, time.Minute).Answers(t.Context(), auth.RootCaller(), "", inputs(row.inputs)...)
			if !row.fails {
				if err != nil || len(answers[row.inputs-1].Text) != row.size*MiB {
					t.Error(err)
				}
				return
			}
			if code(t, err) != api.ModelFailed {
				t.Errorf("got %v", err)
			}
			if n := yielded.Load(); n > 8+8 { // what fits, and a last piece of each that runs
				t.Errorf("%d pieces were yielded", n)
			}
		})
	}
}

// The first failure is the request's: what runs beside it is stopped, what hasn't
// begun never does, and nobody is told of it.
func TestOneFailureEndsAllAnswers(t *testing.T) {
	for _, row := range []struct {
		name string
		fail part
		want api.Code
	}{
		{"a failure", failsAfter(model.ErrUnavailable), api.ModelUnavailable},
		{"a failure in the middle", failsAfter(model.ErrFailed, "half"), api.ModelFailed},
		{"an end without a stop", breaksOff("half"), api.ModelFailed},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var began, told atomic.Int64
				m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
					began.Add(1)
					if req.Messages[0].Text == "5" {
						time.Sleep(time.Second)
						row.fail(ctx, req, yield)
						return
					}
					hangsAfter("half")(ctx, req, yield)
				})
				chat := newChat(t, m, time.Minute)
				chat.Ran = func(context.Context, auth.Caller, string, time.Time, model.Usage) { told.Add(1) }
				start := time.Now()
				answers, err := chat.Answers(t.Context(), auth.RootCaller(), "", inputs(100)...)
				if took := time.Since(start); code(t, err) != row.want || answers != nil || took != time.Second {
					t.Errorf("%v, %v after %v", answers, err, took)
				}
				if began.Load() != 8 || told.Load() != 8 {
					t.Errorf("%d began, %d were told", began.Load(), told.Load())
				}
			})
		})
	}
}

// P15: answers run beside the handler, where a panic would end the process.
func TestModelPanicsInOneOfManyAnswers(t *testing.T) {
	t.Parallel()
	_, err := newChat(t, panicsAfter("oh", "half"), time.Minute).Answers(t.Context(), auth.RootCaller(), "", inputs(3)...)
	if err == nil || !strings.Contains(err.Error(), "panic: oh") || errors.As(err, new(*api.Error)) {
		t.Errorf("got %v", err)
	}
}

// A caller who leaves stops all of them, and is no failure of a model.
func TestCallerLeavesManyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		_, err := newChat(t, hangsAfter("half"), time.Minute).Answers(ctx, auth.RootCaller(), "", inputs(100)...)
		if !errors.Is(err, context.Canceled) || errors.As(err, new(*api.Error)) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnswersOfNobody(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"judge", "nobody"} {
		if _, err := newChat(t, says("x"), time.Minute).Answers(t.Context(), only("clerk"), name, inputs(1)...); err != agents.ErrNoAgent {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream's events come one by one, and its result last.
func TestStreamHandsEventsOn(t *testing.T) {
	t.Parallel()
	chat := newChat(t, says("Good ", "day."), time.Minute)
	var ran []string
	chat.Ran = func(_ context.Context, caller auth.Caller, agent string, _ time.Time, used model.Usage) {
		ran = append(ran, fmt.Sprint(caller.ID, " ", agent, " ", used.OutputTokens))
	}
	var got []string
	err := chat.Stream(t.Context(), auth.RootCaller(), "clerk", agents.Ask("m"), func(e agents.Event) error {
		if e.Result != nil {
			got = append(got, fmt.Sprint(e.Result.Stop, " ", e.Result.Usage.OutputTokens))
			return nil
		}
		got = append(got, e.Text)
		return nil
	})
	if err != nil || strings.Join(got, "|") != "Good |day.|end_turn 2" || strings.Join(ran, "|") != "root clerk 2" {
		t.Errorf("%v: %q, told %q", err, got, ran)
	}
}

// What ends a stream early has the face that it has everywhere.
func TestStreamFails(t *testing.T) {
	for _, row := range []struct {
		name  string
		model part
		want  api.Code
		after time.Duration
	}{
		{"no model", failsAfter(model.ErrUnavailable), api.ModelUnavailable, 0},
		{"a failure in the middle", failsAfter(model.ErrFailed, "half"), api.ModelFailed, 0},
		{"an end without a stop", breaksOff("half"), api.ModelFailed, 0},
		{"no end", hangsAfter("half"), api.ModelTimeout, time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := newChat(t, row.model, time.Minute).Stream(t.Context(), auth.RootCaller(), "", agents.Ask("m"), func(agents.Event) error { return nil })
				if took := time.Since(start); code(t, err) != row.want || took != row.after {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

// Who takes no more ends the model's work, and hears its own error.
func TestStreamIsNotTaken(t *testing.T) {
	t.Parallel()
	full, taken := errors.New("full"), 0
	err := newChat(t, says("a", "b", "c"), time.Minute).Stream(t.Context(), auth.RootCaller(), "", agents.Ask("m"), func(agents.Event) error {
		taken++
		return full
	})
	if !errors.Is(err, full) || taken != 1 {
		t.Errorf("%v after %d events", err, taken)
	}
}

func TestStreamOfNobody(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"judge", "nobody"} {
		err := newChat(t, says("x"), time.Minute).Stream(t.Context(), only("clerk"), name, agents.Ask("m"), func(agents.Event) error { return errors.New("it ran") })
		if err != agents.ErrNoAgent {
			t.Errorf("%s: %v", name, err)
		}
	}
}
