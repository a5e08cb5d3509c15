package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/jobs"
	"postern/shared/table"
)

// crew is a Pool that runs, and what it was told to do.
type crew struct {
	*jobs.Pool
	stop, abandon context.CancelFunc
	ended         chan struct{}

	mu      sync.Mutex
	begun   []string
	running int
	most    int
}

// hire runs a Pool over the site's table. do is called for each job, "id" and how
// often it has come.
func (s *site) hire(do func(ctx context.Context, id string, n int) error) *crew {
	c := &crew{Pool: jobs.NewPool(s.table, api.NewLogger(&s.log, slog.LevelDebug)), ended: make(chan struct{})}
	var taking, working context.Context
	taking, c.stop = context.WithCancel(s.Context())
	working, c.abandon = context.WithCancel(s.Context())
	go func() {
		defer close(c.ended)
		c.Run(taking, working, func(ctx context.Context, id string) error {
			c.mu.Lock()
			c.begun = append(c.begun, id)
			c.running++
			c.most = max(c.most, c.running)
			n := 0
			for _, other := range c.begun {
				if other == id {
					n++
				}
			}
			c.mu.Unlock()
			err := do(ctx, id, n)
			c.mu.Lock()
			c.running--
			c.mu.Unlock()
			return err
		})
	}()
	synctest.Wait()
	return c
}

// dismiss ends a crew as SIGTERM does: what runs may end.
func (c *crew) dismiss() {
	c.stop()
	<-c.ended
	c.abandon()
}

// send sends n ids, each at a time of its own.
func (s *site) send(q jobs.Queue, n int) (ids []string) {
	s.Helper()
	for i := range n {
		id := fmt.Sprintf("id-%d", 999-i) // whose order is not that of their times
		if err := q.Send(s.Context(), id, "alice"); err != nil {
			s.Fatal(err)
		}
		ids = append(ids, id)
		time.Sleep(time.Microsecond)
	}
	return ids
}

// was is what has begun, in order but for what began at once.
func (c *crew) was() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.begun)
}

// Eight jobs run at a time, and they begin in the order in which they came.
func TestPoolOrder(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		next := make(chan struct{})
		c := s.hire(func(context.Context, string, int) error { <-next; return nil })
		ids := s.send(c, 250) // more than a page
		for n := 8; ; n = min(n+1, len(ids)) {
			begun := c.was()
			if len(begun) != n {
				t.Fatalf("%d have begun, want %d", len(begun), n)
			}
			first := slices.Sorted(slices.Values(begun[:8]))
			if diff := cmp.Diff(slices.Sorted(slices.Values(ids[:8])), first); diff != "" {
				t.Fatalf("the first eight (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(ids[8:n], begun[8:]); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if n == len(ids) {
				break
			}
			next <- struct{}{}
		}
		close(next)
		synctest.Wait()
		if left := s.items("queue"); len(left) > 0 || c.most != 8 {
			t.Errorf("left is %v; at most %d ran", left, c.most)
		}
		c.dismiss()
	})
}

// sendAs sends n jobs of an owner's, who names them.
func (c *crew) sendAs(t *testing.T, owner string, n int) {
	t.Helper()
	for i := range n {
		if err := c.Send(t.Context(), fmt.Sprint(owner, " ", i), owner); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	synctest.Wait()
}

// One owner's jobs, however many, leave room for those of others: less with each
// who asks for much.
func TestPoolLeavesRoom(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		next := make(chan struct{})
		c := s.hire(func(context.Context, string, int) error { <-next; return nil })
		for _, row := range []struct {
			owner   string
			sent    int
			running int // of all, then
		}{
			{"greedy", 100, 8}, {"small", 1, 9}, {"greedy too", 100, 13}, {"late", 1, 14}, {"later", 9, 15}, {"the last", 1, 16}, {"too late", 1, 16}, {"and another", 1, 16},
		} {
			c.sendAs(t, row.owner, row.sent)
			if begun := c.was(); len(begun) != row.running || row.running < 16 && !strings.HasPrefix(begun[row.running-1], row.owner) {
				t.Errorf("after %s begun are %v", row.owner, begun)
			}
		}
		for _, want := range []string{"too late 0", "and another 0"} {
			next <- struct{}{} // whosever ends, those who have nothing running are next
			if begun := c.was(); begun[len(begun)-1] != want {
				t.Errorf("begun are %v, want %s", begun, want)
			}
		}
		close(next)
		synctest.Wait()
		if left := s.items("queue"); len(left) > 0 || len(c.was()) != 214 || c.most != 16 {
			t.Errorf("left is %v; %d began, at most %d at once", left, len(c.was()), c.most)
		}
		c.dismiss()
	})
}

// Of many who all wait, each has its turn before one has a second.
func TestPoolTakesTurns(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		before := jobs.NewPool(s.table, nil)
		for n := range 20 {
			for i := range 3 {
				if err := before.Send(t.Context(), fmt.Sprintf("of %d, %d", n, i), fmt.Sprint("owner ", n)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		}
		next := make(chan struct{})
		c := s.hire(func(context.Context, string, int) error { <-next; return nil })
		c.sendAs(t, "newcomer", 1)
		var want []string
		for n := range 20 {
			want = append(want, fmt.Sprintf("of %d, 0", n))
		}
		for range 5 {
			next <- struct{}{}
			synctest.Wait()
		}
		// Those that begin together do so in any order.
		begun := c.was()
		slices.Sort(begun[:16])
		slices.Sort(want[:16])
		if diff := cmp.Diff(append(want, "newcomer 0"), begun); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		close(next)
		synctest.Wait()
		if len(c.was()) != 61 {
			t.Errorf("%d began", len(c.was()))
		}
		c.dismiss()
	})
}

// What comes while everybody is idle begins at once, and once.
func TestPoolWakes(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		c := s.hire(func(context.Context, string, int) error { return nil })
		for n := range 5 {
			time.Sleep(time.Hour)
			at := time.Now()
			if err := c.Send(t.Context(), fmt.Sprint("id-", n), "alice"); err != nil {
				t.Fatal(err)
			}
			if begun := c.was(); len(begun) != n+1 || !time.Now().Equal(at) {
				t.Errorf("begun are %v", begun)
			}
		}
		time.Sleep(time.Hour)
		if begun := c.was(); len(begun) != 5 {
			t.Errorf("begun are %v", begun)
		}
		c.dismiss()
	})
}

// What fails is tried anew after 5 s, and then later and later, up to 320 s, as
// often as it takes; it keeps nobody from working meanwhile.
func TestPoolTriesAnew(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		var times []time.Duration // of one job, which is never done twice at once
		began := time.Now()
		c := s.hire(func(_ context.Context, id string, n int) error {
			if id != "bad" {
				return nil
			}
			times = append(times, time.Since(began))
			if n < 10 {
				return errDown
			}
			return nil
		})
		if err := c.Send(t.Context(), "bad", "bob"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s.send(c, 30) // each of which wakes the pool
		if begun := c.was(); len(begun) != 31 {
			t.Errorf("begun are %v", begun)
		}
		time.Sleep(time.Hour)
		c.dismiss()
		if diff := cmp.Diff([]time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second, 155 * time.Second,
			315 * time.Second, 635 * time.Second, 955 * time.Second, 1275 * time.Second}, times); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if left := s.items("queue"); len(left) > 0 {
			t.Errorf("left is %v", left)
		}
		if lines := strings.Count(s.log.String(), "tried anew"); lines != 9 {
			t.Errorf("the log is %s", s.log.String())
		}
	})
}

// Who is told to stop lets what runs end, and begins nothing; the rest begins with
// the next.
func TestPoolStops(t *testing.T) {
	for _, free := range []bool{true, false} { // whether hands are free when it is told
		t.Run(fmt.Sprintf("hands are free: %t", free), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				var ids []string
				if free {
					ids = s.send(jobs.NewPool(s.table, nil), 50)
					taking, stop := context.WithCancel(t.Context())
					s.table.on(nil, func(op string, _ table.Key) error {
						if op == "list" {
							stop() // the page is there, and so are eight hands
						}
						return nil
					})
					jobs.NewPool(s.table, nil).Run(taking, t.Context(), func(context.Context, string) error {
						t.Error("something begins")
						return nil
					})
					s.table.on(nil, nil)
				} else {
					c := s.hire(func(ctx context.Context, _ string, _ int) error {
						time.Sleep(time.Minute)
						return ctx.Err()
					})
					ids = s.send(c, 50)
					time.Sleep(time.Second)
					began := time.Now()
					c.dismiss()
					if took := time.Since(began); took > time.Minute || took < 50*time.Second {
						t.Errorf("it took %v", took)
					}
					if begun := c.was(); len(begun) != 8 {
						t.Errorf("begun are %v", begun)
					}
					ids = ids[8:]
				}
				if left := s.items("queue"); len(left) != len(ids) {
					t.Errorf("left are %d, want %d", len(left), len(ids))
				}
				next := s.hire(func(context.Context, string, int) error { return nil })
				if diff := cmp.Diff(slices.Sorted(slices.Values(ids)), slices.Sorted(slices.Values(next.was()))); diff != "" {
					t.Errorf("with the next begin (-want +got):\n%s", diff)
				}
				next.dismiss()
			})
		})
	}
}

// What doesn't end in time is abandoned, and begins again with the next.
func TestPoolAbandons(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		c := s.hire(func(ctx context.Context, _ string, _ int) error { <-ctx.Done(); return ctx.Err() })
		ids := s.send(c, 3)
		c.stop()
		synctest.Wait()
		select {
		case <-c.ended:
			t.Error("it didn't wait")
		default:
		}
		c.abandon()
		<-c.ended
		if strings.Contains(s.log.String(), "tried anew") {
			t.Errorf("the log is %s", s.log.String())
		}
		next := s.hire(func(context.Context, string, int) error { return nil })
		if begun := next.was(); len(begun) != len(ids) {
			t.Errorf("begun are %v", begun)
		}
		next.dismiss()
		time.Sleep(time.Minute) // what the first one had set its clock for
	})
}

// Who stops while the queue is being read has nothing to tell of it.
func TestPoolStopsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		taking, stop := context.WithCancel(t.Context())
		s.table.on(func(op string, _ table.Key) error {
			stop()
			return taking.Err()
		}, nil)
		jobs.NewPool(s.table, api.NewLogger(&s.log, slog.LevelDebug)).Run(taking, t.Context(), nil)
		if s.log.String() != "" {
			t.Errorf("the log is %s", s.log.String())
		}
	})
}

// A table that fails for a while loses nothing.
func TestPoolWithFaults(t *testing.T) {
	for _, op := range []string{"list", "delete"} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost is %t", op, lost), func(t *testing.T) {
				bubble(t, func(t *testing.T, s *site) {
					var n atomic.Int32
					fault := func(o string, _ table.Key) error {
						if o != op || n.Add(1) > 3 {
							return nil
						}
						return errDown
					}
					if lost {
						s.table.on(nil, fault)
					} else {
						s.table.on(fault, nil)
					}
					c := s.hire(func(context.Context, string, int) error { return nil })
					if err := c.Send(t.Context(), "id-1", "alice"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(14 * time.Second)
					if n.Load() > 3 || op == "list" && len(c.was()) > 0 {
						t.Errorf("%d operations in 14 s", n.Load())
					}
					time.Sleep(30 * time.Second)
					if begun := c.was(); len(begun) == 0 || op == "list" && len(begun) > 1 {
						t.Errorf("begun are %v", begun)
					}
					if left := s.items("queue"); len(left) > 0 {
						t.Errorf("left is %v", left)
					}
					c.dismiss()
				})
			})
		}
	}
	t.Run("what can't be sent is an error", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			s.table.on(once("put", func() error { return errDown }), nil)
			if err := jobs.NewPool(s.table, nil).Send(t.Context(), "id", "alice"); !errors.Is(err, errDown) {
				t.Error(err)
			}
		})
	})
}

// P17: jobs, from POST to their end, through a pool whose process stops and
// starts, over a table that fails now and then.
func TestPoolWithJobs(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.worker.Alone = true
		s.run = takes(3*time.Second, "done")
		do := func(ctx context.Context, id string, _ int) error { return s.worker.Do(ctx, id) }
		var ids []string
		var n atomic.Int32
		for range 3 { // and so no job dies five times
			c := s.hire(do)
			s.store.Queue = c.Pool
			for range 20 {
				ids = append(ids, s.submit(s.told()))
				time.Sleep(10 * time.Millisecond)
			}
			s.table.on(func(op string, _ table.Key) error {
				if n.Add(1)%17 == 0 && op != "list" {
					return errDown
				}
				return nil
			}, nil)
			time.Sleep(4 * time.Second)
			s.table.on(nil, nil)
			c.stop()
			c.abandon()
			<-c.ended
		}
		c := s.hire(do)
		time.Sleep(time.Hour)
		c.dismiss()
		for _, id := range ids {
			s.is(id, jobs.Succeeded)
		}
		if left := s.items("queue"); len(left) > 0 {
			t.Errorf("left is %v", left)
		}
		deliveries := map[string]bool{}
		for _, l := range s.mail.received() {
			deliveries[l.delivery] = true
		}
		if len(deliveries) != len(ids) {
			t.Errorf("%d jobs have %d deliveries", len(ids), len(deliveries))
		}
	})
}
