package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/route"
	"postern/shared/table"
)

// What a run's error is to its owner, and to the log.
func TestFailures(t *testing.T) {
	const secretText = "SECRETTEXT"
	for _, row := range []struct {
		name string
		run  runFunc
		want api.Problem
	}{
		{"one for the caller", fails(api.Fail(api.ModelFailed, "Do this.")), api.Problem{Status: 502, Title: "Model backend failed", Detail: "Do this."}},
		{"one with a cause", fails(api.Because(api.ModelTimeout, errors.New(secretText))), api.Problem{Status: 504, Title: "Model backend timed out"}},
		{"any other", fails(errors.New(secretText)), api.Problem{Status: 500, Title: "Internal error"}},
		{"a panic", func(context.Context, auth.Caller, string, []byte) (any, error) { panic(secretText) }, api.Problem{Status: 500, Title: "Internal error"}},
		{"its own time that is over", fails(context.DeadlineExceeded), api.Problem{Status: 500, Title: "Internal error"}},
		{"a context of its own that ended", fails(context.Canceled), api.Problem{Status: 500, Title: "Internal error"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				s.run = row.run
				id := s.submit(s.told())
				s.do(id, nil)
				job := s.get(id)
				want := row.want
				want.Error, want.RequestID = want.Title, "request-of-order"
				if want.Detail == "" && job.Error != nil {
					want.Detail = job.Error.Detail
				}
				if diff := cmp.Diff(&want, job.Error); diff != "" || job.Status != jobs.Failed || job.FinishedAt == nil || job.Result != nil {
					t.Errorf("%+v (-want +got):\n%s", job, diff)
				}
				got := s.ask(alice, "GET", "/jobs/"+id)
				if strings.Contains(got.body, secretText) || !strings.HasSuffix(got.body, `"request_id":"request-of-order"}}`+"\n") {
					t.Errorf("%s", got.body)
				}
				if letters := s.mail.received(); len(letters) != 1 || letters[0].body != got.body {
					t.Errorf("the callback is told %+v", letters)
				}
				if !strings.Contains(s.log.String(), `"status":"failed"`) {
					t.Errorf("the log is %s", s.log.String())
				}
				s.do(id, nil)
				if s.runs.Load() != 1 || len(s.mail.received()) != 1 {
					t.Errorf("%d runs, %d letters", s.runs.Load(), len(s.mail.received()))
				}
				s.quiet(id)
			})
		})
	}
}

// An error beside a result is for the log.
func TestAResultWithAnError(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.run = func(context.Context, auth.Caller, string, []byte) (any, error) { return "said", errDown }
		id := s.submit(order())
		s.do(id, nil)
		if job := s.get(id); job.Status != jobs.Succeeded || string(job.Result) != "\"said\"\n" || job.Error != nil {
			t.Errorf("%+v", job)
		}
		if !strings.Contains(s.log.String(), errDown.Error()) {
			t.Errorf("the log is %s", s.log.String())
		}
	})
}

// refusals is an api.Usage.
type refusals struct {
	mu  sync.Mutex
	who []string
}

func (r *refusals) Administered(context.Context, string) {}
func (r *refusals) Refused(_ context.Context, caller string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.who = append(r.who, caller)
}

// A budget that refuses a run is usage, as it is of a chat.
func TestABudgetRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		var told refusals
		s.worker.Usage = &told
		for _, err := range []error{fmt.Errorf("a step: %w", &api.Error{Code: api.BudgetExceeded}), errDown, nil} {
			s.run = fails(err)
			id := s.submit(order())
			s.do(id, nil)
			s.do(id, nil)
		}
		if diff := cmp.Diff([]string{"alice"}, told.who); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// What is no job's id would fail for ever, so it is dropped, and not repeated to
// the log.
func TestWhatIsNoJobIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		for _, none := range []string{"", "x", id[:25], id + "A", strings.ToLower(id), "CANARY" + id[:19] + "1", id[:25] + "\n", id[:24] + "é", `{"message":"CANARY"}`, strings.Repeat("CANARY", 100_000)} {
			if err := s.worker.Do(t.Context(), none); err != nil || jobs.ValidID(none) {
				t.Errorf("%.40q: %v", none, err)
			}
		}
		if said := s.log.String(); strings.Count(said, "no job's id is dropped") != 10 || strings.Contains(said, "CANARY") || s.runs.Load() != 0 {
			t.Errorf("after %d runs the log says %.1000s", s.runs.Load(), said)
		}
	})
}

// Nothing is left to do for a job that never was.
func TestUnknownJobs(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		for _, id := range []string{"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "x"} {
			s.do(id, nil)
		}
		if s.runs.Load() != 0 {
			t.Error("something ran")
		}
	})
}

// A job whose request is gone can't run, now or later.
func TestTheRequestIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		if err := s.table.Table.Delete(t.Context(), table.Key{Partition: "job#" + id, Sort: "request"}, 1); err != nil {
			t.Fatal(err)
		}
		s.do(id, nil)
		if job := s.get(id); job.Status != jobs.Failed || job.Error.Status != 500 || s.runs.Load() != 0 {
			t.Errorf("%+v", job)
		}
	})
}

// A panic that isn't the run's own is an error like others, and the process lives.
func TestPanics(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(s.told())
		panics := func(string, table.Key) error { panic("SECRETTEXT") }
		for _, at := range []string{"get job", "get request", "put job", "put result"} {
			s.table.on(once(at, func() error { return panics("", table.Key{}) }), nil)
			if err := s.worker.Do(t.Context(), id); err == nil || !strings.HasPrefix(err.Error(), "panic: ") {
				t.Errorf("at %s: %v", at, err)
			}
			s.worker.Alone = true // so that the run that panicked is dead
		}
		s.table.on(nil, nil)
		s.mail.answer = func(context.Context) error { panic("of the courier") }
		if err := s.worker.Do(t.Context(), id); err == nil {
			t.Error("no error")
		}
		s.mail.answer = nil
		s.do(id, nil)
		s.is(id, jobs.Succeeded)
		s.quiet(id)
	})
}

// A job whose result couldn't be kept isn't begun: it waits, and no model is asked
// in vain.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	full := errors.New("the disk is nearly full")
	s.worker.Room = func() error { return full }
	id := s.submit(order())
	for range 10 { // more than a job has attempts
		s.do(id, full)
	}
	s.is(id, jobs.Queued)
	full = nil
	s.do(id, nil)
	s.is(id, jobs.Succeeded)
	if n := s.runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// A job that is handed out twice runs once, whoever is faster; the slower one
// says "busy", so that the queue doesn't forget the job if the faster one dies.
func TestTwiceAtOnce(t *testing.T) {
	t.Run("the second comes while the first runs", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.run = takes(10*time.Second, "done")
			first := s.start(t.Context(), s.worker, id)
			s.doBy(s.newWorker(), id, jobs.ErrBusy)
			s.doBy(s.worker, id, jobs.ErrBusy)
			if err := <-first; err != nil {
				t.Error(err)
			}
			s.do(id, nil)
			s.is(id, jobs.Succeeded)
			if s.runs.Load() != 1 {
				t.Errorf("%d runs", s.runs.Load())
			}
		})
	})
	for _, row := range []struct {
		name string
		tell bool // whether there is a callback, which is told when the slower one looks
		far  bool // whether the faster one has ended by then
		want error
	}{
		{"the second begins between the first's look and its claim", false, false, jobs.ErrBusy},
		{"and has ended", false, true, nil},
		{"and has ended, but not told", true, false, jobs.ErrBusy},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				o := order()
				s.run = takes(10*time.Second, "done")
				if row.tell {
					o = s.told()
					s.run = says("done")
					s.mail.answer = func(context.Context) error {
						time.Sleep(10 * time.Second)
						return nil
					}
				}
				id := s.submit(o)
				var faster <-chan error
				s.table.on(once("put job", func() error {
					faster = s.start(t.Context(), s.newWorker(), id)
					if row.far {
						time.Sleep(time.Minute)
					}
					return nil
				}), nil)
				s.do(id, row.want)
				if err := <-faster; err != nil {
					t.Errorf("the faster one: %v", err)
				}
				s.do(id, nil)
				s.is(id, jobs.Succeeded)
				if s.runs.Load() != 1 || len(s.mail.received()) > 1 {
					t.Errorf("%d runs, %d letters", s.runs.Load(), len(s.mail.received()))
				}
			})
		})
	}
	t.Run("many", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(s.told())
			s.run = takes(10*time.Second, "done")
			var all sync.WaitGroup
			var busy atomic.Int32
			for range 32 {
				w := s.newWorker()
				all.Go(func() {
					if err := w.Do(t.Context(), id); err == jobs.ErrBusy {
						busy.Add(1)
					} else if err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if s.runs.Load() != 1 || busy.Load() != 31 || len(s.mail.received()) != 1 {
				t.Errorf("%d runs, %d are busy, %d letters", s.runs.Load(), busy.Load(), len(s.mail.received()))
			}
		})
	})
}

// A run is dead when its lease is over, and not before; who is alone knows at
// once.
func TestDeadRuns(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		time.Sleep(time.Second)
		s.die(id)
		s.is(id, jobs.Running)
		time.Sleep(lease - time.Millisecond)
		s.do(id, jobs.ErrBusy)
		time.Sleep(time.Millisecond)
		s.do(id, nil)
		job := s.get(id)
		if job.Status != jobs.Succeeded || job.StartedAt.Sub(job.CreatedAt) != time.Second+lease || s.runs.Load() != 2 {
			t.Errorf("%+v after %d runs", job, s.runs.Load())
		}

		s.worker.Alone = true
		id = s.submit(order())
		s.die(id)
		s.do(id, nil)
		s.is(id, jobs.Succeeded)
	})
}

// A job that kills whoever runs it is begun five times.
func TestAttempts(t *testing.T) {
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprintf("alone is %t", alone), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				s.worker.Alone = alone
				id := s.submit(s.told())
				for range 5 {
					s.die(id)
					s.is(id, jobs.Running)
					if !alone {
						time.Sleep(lease)
					}
				}
				s.do(id, nil)
				job := s.get(id)
				if job.Status != jobs.Failed || job.Error.Status != 500 || job.Error.RequestID != "request-of-order" || s.runs.Load() != 5 {
					t.Errorf("%+v after %d runs", job, s.runs.Load())
				}
				if len(s.mail.received()) != 1 {
					t.Error("the callback isn't told")
				}
				s.quiet(id)
			})
		})
	}
}

// P17: of two runs of one job, since the first was thought dead, one result is
// kept, and the callback is told that one.
func TestResultsAreRecordedOnce(t *testing.T) {
	const slow, fast = "of the first", "of the second"
	big := strings.Repeat("x", table.MaxValue+1)
	for _, row := range []struct {
		name   string
		first  time.Duration // how long the first run takes, whose lease is 90 s; the second begins then
		second time.Duration
		blind  bool // whether the first can't see that it is no more the job's
		tail   string
		want   string
	}{
		{"the second ends first", 200 * time.Second, time.Second, false, "", fast},
		{"the second ends first, and nobody can say so", 200 * time.Second, time.Second, true, "", fast},
		{"the first ends first", 100 * time.Second, 60 * time.Second, false, "", fast},
		{"the first ends first, and nobody can say so", 100 * time.Second, 60 * time.Second, true, "", fast},
		{"the first ends first, with a large result", 100 * time.Second, 60 * time.Second, true, big, fast},
		{"the second ends first, with a large result", 200 * time.Second, time.Second, true, big, fast},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				id := s.submit(s.told())
				s.run = takes(row.first, slow+row.tail)
				first := s.start(t.Context(), s.worker, id)
				time.Sleep(lease)
				if row.blind { // all reads fail but the second's first, which come now
					blind := time.Now()
					s.table.on(func(op string, key table.Key) error {
						if op+key.Sort == "getjob" && time.Now().After(blind) {
							return errDown
						}
						return nil
					}, nil)
				}
				s.run = takes(row.second, fast+row.tail)
				second := s.start(t.Context(), s.newWorker(), id)
				time.Sleep(row.first + row.second)
				s.table.on(nil, nil)
				for _, err := range []error{<-first, <-second} {
					if err != nil && err != jobs.ErrBusy && !errors.Is(err, errDown) {
						t.Error(err)
					}
				}
				s.do(id, nil)
				s.recorded(id, row.want+row.tail)
			})
		})
	}
	t.Run("the second begins while the first's is being recorded", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(s.told())
			s.run = takes(lease, slow)
			first := s.start(t.Context(), s.worker, id)
			s.run = takes(time.Minute, fast)
			var second <-chan error
			s.table.on(once("put result", func() error { return nil }), once("put result", func() error {
				second = s.start(t.Context(), s.newWorker(), id)
				return nil
			}))
			if err := <-first; err != jobs.ErrBusy {
				t.Errorf("the first: %v", err)
			}
			if err := <-second; err != nil {
				t.Errorf("the second: %v", err)
			}
			s.recorded(id, fast)
		})
	})
	t.Run("the first's is recorded while the second begins", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(s.told())
			s.run = takes(lease+time.Second, slow)
			first := s.start(t.Context(), s.worker, id)
			time.Sleep(lease)
			s.run = says(fast)
			s.table.on(once("put job", func() error {
				if err := <-first; err != nil {
					t.Error(err)
				}
				return nil
			}), nil)
			s.doBy(s.newWorker(), id, nil)
			s.recorded(id, slow)
			if s.runs.Load() != 1 {
				t.Errorf("%d runs", s.runs.Load())
			}
		})
	})
}

// recorded fails the test unless the job has succeeded with that result, told to
// its callback alone, and nothing else of it is kept.
func (s *site) recorded(id, want string) {
	s.Helper()
	encoded, _ := json.Marshal(want)
	job := s.get(id)
	if job.Status != jobs.Succeeded || strings.TrimSpace(string(job.Result)) != string(encoded) {
		s.Errorf("the job is %s, with %.50q of %d bytes", job.Status, job.Result, len(job.Result))
	}
	letters := s.mail.received()
	body := s.ask(alice, "GET", "/jobs/"+id).body
	for _, l := range letters {
		if l.body != body || l.delivery != letters[0].delivery {
			s.Errorf("delivery %s has %.300s", l.delivery, l.body)
		}
	}
	if len(letters) == 0 {
		s.Error("the callback wasn't told")
	}
	results, parts := 0, 0
	for name := range s.items("job#" + id) {
		if strings.Contains(name, " result-") {
			results++
		}
		if strings.HasSuffix(name, " part") {
			parts++
		}
	}
	needed := 0
	if len(want) > table.MaxValue {
		needed = (len(encoded) + table.MaxValue) / table.MaxValue // and a newline
	}
	if results != 1 || parts != needed && !s.faults { // a fault may leave parts that are nobody's: table.Large
		s.Errorf("kept are %q", sorts(s.items("job#"+id)))
	}
	s.quiet(id)
}

// A run learns within 2 s that its job isn't its own any more, also when the
// table couldn't be asked for a while, which ends nothing.
func TestWatch(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		var ended time.Time
		s.run = func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
			<-ctx.Done()
			ended = time.Now()
			return nil, ctx.Err()
		}
		done := s.start(t.Context(), s.worker, id)
		s.table.on(func(string, table.Key) error { return errDown }, nil)
		time.Sleep(30 * time.Second)
		if !ended.IsZero() {
			t.Error("the run ended with the table down")
		}
		s.table.on(nil, nil)
		s.is(id, jobs.Running)
		at := time.Now()
		if _, err := s.store.Cancel(t.Context(), alice, id); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if late := ended.Sub(at); late < 0 || late > 2*time.Second {
			t.Errorf("it ended %v late", late)
		}
	})
}

// The process stops: the run's context ends, the job is nobody's failure, and it
// runs again.
func TestTheProcessStops(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		cause := errors.New("SIGTERM")
		for name, run := range map[string]runFunc{
			"with the context's error": waits,
			"with an error of its own": func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
				<-ctx.Done()
				return nil, api.Because(api.ModelFailed, ctx.Err())
			},
			"with a panic": func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
				<-ctx.Done()
				panic("stopping")
			},
		} {
			id := s.submit(s.told())
			s.worker.Alone = false
			s.run = run
			ctx, stop := context.WithCancelCause(t.Context())
			ended := s.start(ctx, s.worker, id)
			stop(cause)
			if err := <-ended; err != context.Canceled {
				t.Errorf("%s: %v", name, err)
			}
			s.is(id, jobs.Running)
			letters := len(s.mail.received())
			s.do(id, jobs.ErrBusy)
			s.worker.Alone = true
			s.run = says("done")
			s.do(id, nil)
			s.is(id, jobs.Succeeded)
			if got := len(s.mail.received()) - letters; got != 1 {
				t.Errorf("%s: %d letters", name, got)
			}
		}
	})
}

// A result that was ready when the process stopped is recorded.
func TestTheProcessStopsWithAResult(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(s.told())
		s.run = func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
			<-ctx.Done()
			return "ready", nil
		}
		s.mail.answer = until
		ctx, stop := context.WithCancel(t.Context())
		ended := s.start(ctx, s.worker, id)
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the callback that is left: %v", err)
		}
		s.mail.answer = nil
		s.run = says("never")
		s.do(id, nil)
		s.recorded(id, "ready")
	})
}

// The owner is looked up anew before a job begins.
func TestPresent(t *testing.T) {
	expired := alice
	expired.ExpiresAt = time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)
	later := alice
	later.ExpiresAt = time.Date(2000, 1, 1, 0, 1, 0, 1e6, time.UTC)
	reader := alice
	reader.Scopes = []route.Scope{route.AgentsRead}
	changed := alice
	changed.Agents, changed.TokensPerDay, changed.Name = []string{"clerk"}, new(int), "new"
	is := func(now auth.Caller, err error) func(context.Context, auth.Caller) (auth.Caller, error) {
		return func(context.Context, auth.Caller) (auth.Caller, error) { return now, err }
	}
	for _, row := range []struct {
		name    string
		caller  auth.Caller
		present func(context.Context, auth.Caller) (auth.Caller, error)
		refusal int // its status; 0: it runs
	}{
		{"nobody is asked", alice, nil, 0},
		{"a good key", alice, is(alice, nil), 0},
		{"a revoked key", alice, is(auth.Caller{}, auth.Revoked), 401},
		{"a disabled key", alice, is(auth.Caller{}, auth.Disabled), 401},
		{"an expired key", alice, is(auth.Caller{}, auth.Expired), 401},
		{"an unknown key", alice, is(auth.Caller{}, fmt.Errorf("wrapped: %w", auth.Unknown)), 401},
		{"a key that ends right now", alice, is(expired, nil), 401},
		{"a key that ends in a millisecond", alice, is(later, nil), 0},
		{"a key that has ended, and nobody is asked", expired, nil, 401},
		{"a key that ended, and was given more time", expired, is(alice, nil), 0},
		{"a key without the scope", alice, is(reader, nil), 403},
		{"a key with other bounds", alice, is(changed, nil), 0},
		{"a caller that is nobody", alice, is(auth.Caller{}, nil), 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				id := s.submitAs(row.caller, s.told())
				time.Sleep(time.Minute)
				var got auth.Caller
				s.run = func(_ context.Context, caller auth.Caller, _ string, _ []byte) (any, error) {
					got = caller
					return "done", nil
				}
				var was auth.Caller
				if row.present != nil {
					s.worker.Present = func(ctx context.Context, c auth.Caller) (auth.Caller, error) {
						was = c
						return row.present(ctx, c)
					}
				}
				s.do(id, nil)
				want := row.caller
				if row.present != nil {
					if diff := cmp.Diff(row.caller, was); diff != "" {
						t.Errorf("asked is for (-want +got):\n%s", diff)
					}
					want, _ = row.present(t.Context(), was)
				}
				job := s.get(id)
				s.quiet(id)
				if row.refusal != 0 {
					if job.Status != jobs.Cancelled || job.Error.Status != row.refusal || job.Error.RequestID != "request-of-order" || job.StartedAt != nil || job.FinishedAt == nil {
						t.Errorf("%+v", job)
					}
					if s.runs.Load() > 0 || len(s.mail.received()) > 0 {
						t.Errorf("%d runs, %d letters", s.runs.Load(), len(s.mail.received()))
					}
					return
				}
				if diff := cmp.Diff(want, got); diff != "" || job.Status != jobs.Succeeded {
					t.Errorf("%s, for (-want +got):\n%s", job.Status, diff)
				}
			})
		})
	}
	t.Run("it can't be known", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			for _, err := range []error{errDown, fmt.Errorf("%w: %w", auth.ErrUnavailable, errDown)} {
				s.worker.Present = is(auth.Caller{}, err)
				s.do(id, errDown)
				s.is(id, jobs.Queued)
			}
			s.worker.Present = is(alice, nil)
			s.do(id, nil)
			s.is(id, jobs.Succeeded)
		})
	})
	t.Run("a dead run's owner", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.die(id)
			time.Sleep(lease)
			s.worker.Present = is(auth.Caller{}, auth.Revoked)
			s.do(id, nil)
			s.is(id, jobs.Cancelled)
		})
	})
}

// What a receiver can't be told is given up, and its address and secret with it.
func TestAnUndeliverableCallback(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.mail.answer = func(context.Context) error {
			return errors.New("callback to hooks.example.com: it answered with status 500")
		}
		id := s.submit(s.told())
		s.unseen(id)
		s.do(id, nil)
		s.is(id, jobs.Succeeded)
		s.quiet(id)
		if !strings.Contains(s.log.String(), "callback not delivered") || !strings.Contains(s.log.String(), id) {
			t.Errorf("the log is %s", s.log.String())
		}
		s.do(id, nil)
		if len(s.mail.received()) != 1 {
			t.Errorf("%d letters", len(s.mail.received()))
		}
	})
}

// Who deletes a job takes back what its callback would be told, while it is being
// told; of a job that was deleted no more is said.
func TestADeletedJobIsToldToNobody(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.mail.answer = until
		id := s.submit(s.told())
		ended := s.start(t.Context(), s.worker, id)
		time.Sleep(10 * time.Second) // a receiver that doesn't answer; nobody is in a hurry
		s.is(id, jobs.Succeeded)
		if err := s.store.Delete(t.Context(), alice, id, false); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := <-ended; err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
		if left := s.items(""); len(left) > 0 || strings.Contains(s.log.String(), "not delivered") {
			t.Errorf("left is %v, the log is %s", left, s.log.String())
		}
	})
}

// A crash between the record and the delivery, or between the delivery and its
// record, makes another delivery of the same id and body.
func TestACallbackAfterACrash(t *testing.T) {
	for _, size := range []int{10, 2 * table.MaxValue} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				s.run = says(strings.Repeat("é<", size/2))
				id := s.submit(s.told())
				s.mail.answer = until
				ctx, stop := context.WithCancel(t.Context())
				ended := s.start(ctx, s.worker, id) // it tells, and has no answer
				stop()
				if err := <-ended; err != context.Canceled {
					t.Error(err)
				}
				s.is(id, jobs.Succeeded)
				s.mail.answer = nil
				puts := once("put job", func() error { return errDown })
				s.table.on(puts, nil) // it tells, and can't write that down
				s.do(id, errDown)
				time.Sleep(time.Hour)
				s.do(id, nil)
				s.do(id, nil)
				letters := s.mail.received()
				if len(letters) != 3 || s.runs.Load() != 1 {
					t.Fatalf("%d letters, %d runs", len(letters), s.runs.Load())
				}
				for _, l := range letters {
					if diff := cmp.Diff(letters[0], l, cmp.AllowUnexported(letter{})); diff != "" || !random.MatchString(l.delivery) || l.delivery == id {
						t.Errorf("delivery %q (-first +this):\n%s", l.delivery, diff)
					}
				}
				if letters[0].body != s.ask(alice, "GET", "/jobs/"+id).body {
					t.Errorf("told is %.300s", letters[0].body)
				}
				s.quiet(id)
			})
		})
	}
}

// Every job's deliveries have an id of their own.
func TestDeliveriesDiffer(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		for range 20 {
			s.do(s.submit(s.told()), nil)
		}
		seen := map[string]bool{}
		for _, l := range s.mail.received() {
			seen[l.delivery] = true
		}
		if len(seen) != 20 {
			t.Errorf("20 jobs have %d deliveries", len(seen))
		}
	})
}

// A type of jobs has notices of its own.
func TestNotices(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.worker.Notices = map[string]func(jobs.Job) jobs.Notice{"ask": func(job jobs.Job) jobs.Notice {
			return jobs.Notice{Header: http.Header{"X-Of": {job.ID}}, Body: map[string]any{"of": job.ID, "status": job.Status, "result": job.Result}}
		}}
		o := s.told()
		o.Type = "ask"
		id := s.submit(o)
		s.do(id, nil)
		s.run = fails(errDown)
		failed := s.submit(o)
		s.do(failed, nil)
		plain := s.submit(s.told())
		s.do(plain, nil)
		letters := s.mail.received()
		want := []string{
			`{"of":"` + id + `","result":"done","status":"succeeded"}` + "\n",
			`{"of":"` + failed + `","result":null,"status":"failed"}` + "\n",
			s.ask(alice, "GET", "/jobs/"+plain).body,
		}
		for i, l := range letters {
			if l.body != want[i] || (i < 2) != (l.header.Get("X-Of") != "") {
				t.Errorf("%d: %+v, want %s", i, l, want[i])
			}
		}
		if len(letters) != 3 {
			t.Errorf("%d letters", len(letters))
		}
	})
}

// A fault in whatever operation of Do: it says so, and what is done again comes
// to the same end. What was acknowledged isn't lost, and no result is recorded
// twice.
func TestDoWithFaults(t *testing.T) {
	for _, alone := range []bool{true, false} {
		for name, result := range map[string]string{"small": "done", "large": strings.Repeat("x", table.MaxValue+1)} {
			t.Run(fmt.Sprintf("alone is %t, %s", alone, name), func(t *testing.T) {
				t.Parallel()
				for _, lost := range []bool{false, true} {
					for n, hit := 1, true; hit; n++ {
						inBubble(t, func(t *testing.T, s *site) {
							s.worker.Alone = alone
							s.run = says(result)
							id := s.submit(s.told())
							before, after, was := faultAt(n, lost)
							records := s.recordings()
							s.table.on(before, both(after, records.hook))
							s.untilDone(id)
							hit = was()
							s.table.on(nil, nil)
							s.recordedOnce(id, result, records)
						})
					}
				}
			})
		}
	}
}

// Many faults, of random schedules.
func TestDoWithManyFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		inBubble(t, func(t *testing.T, s *site) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			fault := func(string, table.Key) error {
				mu.Lock()
				defer mu.Unlock()
				if rnd.IntN(6) == 0 {
					return errDown
				}
				return nil
			}
			s.worker.Alone = seed%2 == 0
			s.run = takes(1500*time.Millisecond, "done") // so that it is watched
			id := s.submit(s.told())
			records := s.recordings()
			s.table.on(fault, both(fault, records.hook))
			for range 4 {
				s.worker.Do(t.Context(), id)
				time.Sleep(lease)
			}
			s.table.on(nil, records.hook)
			s.untilDone(id)
			s.table.on(nil, nil)
			if job := s.get(id); job.Status == jobs.Failed { // the run died five times
				t.Errorf("seed %d: %+v", seed, job.Error)
				return
			}
			s.endedOnce(records)
			if letters := s.mail.received(); len(letters) == 0 || letters[0].delivery != letters[len(letters)-1].delivery {
				t.Errorf("seed %d: %d letters", seed, len(letters))
			}
			s.quiet(id)
		})
	}
}

// untilDone does a job until there is nothing left to do, as a queue would.
func (s *site) untilDone(id string) {
	s.Helper()
	for range 10 {
		if s.worker.Do(s.Context(), id) == nil {
			return
		}
		time.Sleep(lease)
	}
	s.Error("it is never done")
}

// recordings is the ends of a job that were written: the runs that they name.
type recordings struct {
	site  *site
	mu    sync.Mutex
	names map[string]bool
}

func (s *site) recordings() *recordings { return &recordings{site: s, names: map[string]bool{}} }

func (r *recordings) hook(op string, key table.Key) error {
	if op+key.Sort != "putjob" {
		return nil
	}
	item, err := r.site.table.Table.Get(r.site.Context(), key)
	var record struct{ Status, Holder string }
	if err != nil || json.Unmarshal(item.Value, &record) != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if record.Status == "succeeded" || record.Status == "failed" {
		r.names[record.Status+" "+record.Holder] = true
	}
	return nil
}

// both is two hooks; the second is told of everything, the first decides.
func both(first, second hook) hook {
	return func(op string, key table.Key) error {
		second(op, key)
		if first == nil {
			return nil
		}
		return first(op, key)
	}
}

func (s *site) endedOnce(r *recordings) {
	s.Helper()
	if len(r.names) != 1 {
		s.Errorf("it ended %d times: %v", len(r.names), r.names)
	}
}

// recordedOnce is recorded, of a job that never ended otherwise in between.
func (s *site) recordedOnce(id, result string, r *recordings) {
	s.Helper()
	s.endedOnce(r)
	s.faults = true
	s.recorded(id, result)
}

// Nobody watches a run that has ended.
func TestNoRunIsWatchedForEver(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		for _, run := range []runFunc{says("done"), fails(errDown), func(context.Context, auth.Caller, string, []byte) (any, error) { panic("x") }} {
			s.run = run
			s.do(s.submit(order()), nil)
		}
		synctest.Wait()
		var reads atomic.Int32
		s.table.on(func(string, table.Key) error { reads.Add(1); return nil }, nil)
		time.Sleep(time.Minute)
		if reads.Load() > 0 {
			t.Errorf("%d reads", reads.Load())
		}
	})
}
