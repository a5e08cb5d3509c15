package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/table"
)

// Submit's errors are the caller's: who is anonymous is told what to do instead,
// and nothing is kept.
func TestNobodyAnonymousHasJobs(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		nobody := auth.AnonymousCaller()
		job, err := s.store.Submit(t.Context(), nobody, s.told())
		if detail := detailOf(err); job.ID != "" || !strings.Contains(detail, "needs a credential") || !strings.Contains(detail, "without Prefer: respond-async") {
			t.Errorf("%+v, %s", job, detail)
		}
		if diff := cmp.Diff(map[string]string{}, s.items("")); diff != "" || len(s.queue.ids) > 0 {
			t.Errorf("kept is (-want +got):\n%s and sent %v", diff, s.queue.ids)
		}
		// Nor does it have those of somebody who is called so.
		id := s.submitAs(holder("anonymous"), order())
		s.do(id, nil)
		if got := s.ask(nobody, "GET", "/jobs"); got.body != `{"jobs":[],"next":null}`+"\n" {
			t.Errorf("the list is %s", got.body)
		}
		for _, route := range routesOf(id) {
			if got := s.ask(nobody, route[0], route[1]); got.status != 404 {
				t.Errorf("%s %s: %d %s", route[0], route[1], got.status, got.body)
			}
		}
		if got := s.ask(holder("anonymous"), "GET", "/jobs/"+id); got.status != 200 {
			t.Errorf("its owner: %d", got.status)
		}
	})
}

// routesOf is what can be done to a job, what changes it last.
func routesOf(id string) [][2]string {
	return [][2]string{{"GET", "/jobs/" + id}, {"POST", "/jobs/" + id + "/cancel"}, {"DELETE", "/jobs/" + id}}
}

// P13: another's job is like none, byte for byte, whatever its status and whoever
// asks; so is what can be no id.
func TestP13AJobIsItsOwners(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		client := auth.Caller{ID: "client-1a2b3c4d", Kind: auth.Client, Scopes: auth.RootCaller().Scopes}
		callers := []auth.Caller{alice, holder("alice2"), holder("alic"), holder("Alice"), holder("alice#"), client, auth.RootCaller(), auth.AdminCaller()}
		owned := map[string][]string{}
		for _, c := range callers {
			queued, running := s.submitAs(c, s.told()), s.submitAs(c, order())
			succeeded, failed, cancelled := s.submitAs(c, order()), s.submitAs(c, order()), s.submitAs(c, order())
			s.die(running)
			s.do(succeeded, nil)
			s.run = fails(errDown)
			s.do(failed, nil)
			s.run = says("done")
			s.ask(c, "POST", "/jobs/"+cancelled+"/cancel")
			owned[c.ID] = []string{queued, running, succeeded, failed, cancelled}
		}
		before := s.items("")
		unknown := map[string]reply{}
		for _, route := range routesOf("ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			unknown[route[0]] = s.ask(alice, route[0], route[1])
			if unknown[route[0]].status != 404 {
				t.Fatalf("%+v", unknown)
			}
		}
		refused := func(c auth.Caller, id string) {
			t.Helper()
			for _, route := range routesOf(id) {
				got, want := s.ask(c, route[0], route[1]), unknown[route[0]]
				if got.status != want.status || got.body != want.body || cmp.Diff(want.header, got.header) != "" {
					t.Errorf("%s, %s %s:\n%+v, want\n%+v", c.ID, route[0], route[1], got, want)
				}
			}
		}
		for _, c := range append(callers, auth.AnonymousCaller()) {
			for owner, ids := range owned {
				for _, id := range ids {
					if owner != c.ID {
						refused(c, id)
					}
				}
			}
		}
		mine := owned[alice.ID][2]
		for _, id := range []string{
			"x", mine[:25], mine + "A", strings.ToLower(mine), mine[:25] + "1", mine[:25] + "=", mine + "#x", mine + "\n", " " + mine, "job#" + mine, strings.Repeat("ü", 13), strings.Repeat("A", 2000), "..A", "%00",
		} {
			refused(alice, url.PathEscape(id))
		}
		if diff := cmp.Diff(before, s.items("")); diff != "" {
			t.Errorf("the table has changed (-before +after):\n%s", diff)
		}
		for _, c := range callers {
			list, next, err := s.store.List(t.Context(), c, "", 100)
			var got []string
			for _, job := range list {
				got = append(got, job.ID)
			}
			slices.Sort(got)
			if diff := cmp.Diff(slices.Sorted(slices.Values(owned[c.ID])), got); diff != "" || next != "" || err != nil {
				t.Errorf("the list of %s, %q, %v (-want +got):\n%s", c.ID, next, err, diff)
			}
		}
	})
}

// I12: an id is 26 characters of base32, 130 bits, and no two are alike.
func TestI12IDs(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		seen, columns := map[string]bool{}, [26]map[byte]bool{}
		for range 1000 {
			id := s.submit(order())
			if seen[id] || !random.MatchString(id) || len(id) != 26 || !jobs.ValidID(id) {
				t.Fatalf("id %q", id)
			}
			seen[id] = true
			for i := range columns {
				if columns[i] == nil {
					columns[i] = map[byte]bool{}
				}
				columns[i][id[i]] = true
			}
		}
		for i, letters := range columns { // that 20 of 32 come in 1000 draws is certain
			if len(letters) < 20 {
				t.Errorf("character %d is one of %d", i, len(letters))
			}
		}
		for _, id := range []string{"", strings.Repeat("A", 25), strings.Repeat("A", 27), strings.Repeat("a", 26), strings.Repeat("0", 26), strings.Repeat("ü", 13), strings.Repeat("A", 25) + "\n"} {
			if jobs.ValidID(id) {
				t.Errorf("%q is taken for an id", id)
			}
		}
	})
}

// A job that hasn't begun never does once it was cancelled.
func TestCancelAQueuedJob(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(s.told())
		s.unseen(id)
		time.Sleep(time.Second)
		job, err := s.store.Cancel(t.Context(), alice, id)
		if err != nil || job.Status != jobs.Cancelled || job.StartedAt != nil || job.FinishedAt.Sub(job.CreatedAt) != time.Second || job.Error != nil {
			t.Errorf("%+v, %v", job, err)
		}
		s.quiet(id)
		time.Sleep(time.Second)
		s.do(id, nil)
		again, err := s.store.Cancel(t.Context(), alice, id)
		if diff := cmp.Diff(job, again); diff != "" || err != nil {
			t.Errorf("cancelled again: %v (-first +again):\n%s", err, diff)
		}
		if diff := cmp.Diff(job, s.get(id)); diff != "" {
			t.Errorf("(-cancelled +got):\n%s", diff)
		}
		if s.runs.Load() != 0 || len(s.mail.received()) != 0 {
			t.Errorf("%d runs, %d letters", s.runs.Load(), len(s.mail.received()))
		}
	})
}

// A job that runs ends within 2 s, and whatever it still says is nobody's.
func TestCancelARunningJob(t *testing.T) {
	for name, run := range map[string]func(*time.Time) runFunc{
		"that listens": func(ended *time.Time) runFunc {
			return func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
				<-ctx.Done()
				*ended = time.Now()
				return nil, ctx.Err()
			}
		},
		"that has a result none the less": func(ended *time.Time) runFunc {
			return func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
				<-ctx.Done()
				*ended = time.Now()
				return "too late", nil
			}
		},
		"that panics": func(ended *time.Time) runFunc {
			return func(ctx context.Context, _ auth.Caller, _ string, _ []byte) (any, error) {
				<-ctx.Done()
				*ended = time.Now()
				panic("too late")
			}
		},
	} {
		for _, act := range []string{"cancelled", "deleted"} {
			t.Run(name+", "+act, func(t *testing.T) {
				bubble(t, func(t *testing.T, s *site) {
					other := s.submit(order())
					s.do(other, nil)
					id := s.submit(s.told())
					var at, ended time.Time
					s.run = run(&ended)
					done := s.start(t.Context(), s.worker, id)
					s.is(id, jobs.Running)
					time.Sleep(10*time.Second + 300*time.Millisecond)
					at = time.Now()
					if act == "cancelled" {
						if job, err := s.store.Cancel(t.Context(), alice, id); err != nil || job.Status != jobs.Cancelled {
							t.Errorf("%+v, %v", job, err)
						}
					} else if err := s.store.Delete(t.Context(), alice, id, false); err != nil {
						t.Error(err)
					}
					if err := <-done; err != nil {
						t.Errorf("Do: %v", err)
					}
					if late := ended.Sub(at); late < 0 || late > 2*time.Second {
						t.Errorf("the run ended %v after that", late)
					}
					if len(s.mail.received()) > 0 {
						t.Error("the callback was told")
					}
					if act == "deleted" {
						if got := sorts(s.items("")); cmp.Diff([]string{"job#X job", "job#X result-X", "jobs#alice 20000101T000000.000Z-X"}, got) != "" {
							t.Errorf("the table has %q", got)
						}
						s.do(id, nil)
						return
					}
					s.is(id, jobs.Cancelled)
					s.quiet(id)
					if kept := s.items("job#" + id); len(kept) != 1 { // the record
						t.Errorf("kept is %v", kept)
					}
				})
			})
		}
	}
}

// What has ended can't be cancelled, and says how it ended.
func TestCancelWhatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		for status, run := range map[string]runFunc{"succeeded": says(1), "failed": fails(errDown)} {
			s.run = run
			id := s.submit(order())
			s.do(id, nil)
			before := s.get(id)
			got := s.ask(alice, "POST", "/jobs/"+id+"/cancel")
			if p := got.problem(t); got.status != 409 || p.Error != "Conflict" || !strings.Contains(p.Detail, status) {
				t.Errorf("%+v", got)
			}
			if diff := cmp.Diff(before, s.get(id)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		}
	})
}

// Whatever a job's status: nothing is left of one that was deleted.
func TestDelete(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	for _, row := range []struct {
		name    string
		prepare func(s *site, id string)
		endedOK bool // even if it may only go when it has ended
	}{
		{"queued", func(*site, string) {}, false},
		{"running", (*site).die, false},
		{"succeeded", func(s *site, id string) { s.do(id, nil) }, true},
		{"succeeded with a large result", func(s *site, id string) {
			s.run = says(big)
			s.do(id, nil)
		}, true},
		{"succeeded, its callback not told yet", func(s *site, id string) {
			s.mail.answer = until
			ctx, stop := context.WithCancel(s.Context())
			ended := s.start(ctx, s.worker, id)
			stop()
			<-ended
		}, true},
		{"failed", func(s *site, id string) {
			s.run = fails(errDown)
			s.do(id, nil)
		}, true},
		{"cancelled", func(s *site, id string) { s.ask(alice, "POST", "/jobs/"+id+"/cancel") }, true},
		{"cancelled while it ran", func(s *site, id string) {
			s.die(id)
			s.ask(alice, "POST", "/jobs/"+id+"/cancel")
		}, true},
		{"taken over from a run that had kept a result", func(s *site, id string) {
			s.dieKept(id)
			time.Sleep(lease)
			s.do(id, nil)
		}, true},
		{"dead, with a result kept", (*site).dieKept, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				o := s.told()
				o.Request = []byte(big)
				other, bobs := s.submit(o), s.submitAs(bob, o)
				want := s.items("")
				id := s.submit(o)
				row.prepare(s, id)
				err := s.store.Delete(t.Context(), alice, id, true)
				switch refusal, _ := errors.AsType[*api.Error](err); {
				case row.endedOK && err != nil:
					t.Error(err)
				case !row.endedOK && (refusal == nil || refusal.Code != api.Conflict):
					t.Errorf("before its end: %v", err)
				case !row.endedOK:
					if got := s.ask(alice, "DELETE", "/jobs/"+id); got.status != 204 || got.body != "" {
						t.Errorf("%+v", got)
					}
				}
				if diff := cmp.Diff(sorts(want), sorts(s.items(""))); diff != "" {
					t.Errorf("(-others +left):\n%s", diff)
				}
				if got := s.ask(alice, "DELETE", "/jobs/"+id); got.status != 404 {
					t.Errorf("again: %+v", got)
				}
				s.do(id, nil)
				s.mail.answer = nil
				s.do(other, nil)
				s.do(bobs, nil)
			})
		})
	}
}

// dieKept leaves a job as a process does that is killed between keeping the
// result and recording it.
func (s *site) dieKept(id string) {
	s.Helper()
	puts := atomic.Int32{}
	s.table.on(func(op string, key table.Key) error {
		if op+key.Sort == "putjob" && puts.Add(1) == 2 {
			return errDown
		}
		return nil
	}, nil)
	s.do(id, errDown)
	s.table.on(nil, nil)
	if results := s.items("job#" + id + " result"); len(sorts(s.items("job#"+id))) < 3 {
		s.Fatalf("no result is kept: %v", results)
	}
}

// After 7 days everything is gone by itself.
func TestJobsExpire(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		time.Sleep(time.Hour)
		s.do(id, nil)
		time.Sleep(jobs.Keep - time.Hour - time.Second)
		s.is(id, jobs.Succeeded)
		time.Sleep(time.Second)
		if got := s.items(""); len(got) > 0 {
			t.Errorf("the table has %v", got)
		}
		if got := s.ask(alice, "GET", "/jobs/"+id); got.status != 404 {
			t.Errorf("%+v", got)
		}
		s.do(id, nil)
	})
}

// Submit either gives a job that is whole and will run, or an error, whatever
// goes wrong; then nothing of it is left, unless the table can't be written to.
func TestSubmitWithFaults(t *testing.T) {
	for name, size := range map[string]int{"small": 10, "large": 800_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, lost := range []bool{false, true} {
				for n := 1; ; n++ {
					hit := false
					t.Run(fmt.Sprintf("operation %d, lost is %t", n, lost), func(t *testing.T) {
						inBubble(t, func(t *testing.T, s *site) {
							o := s.told()
							o.Request = []byte(strings.Repeat("x", size))
							before, after, was := faultAt(n, lost)
							s.table.on(before, after)
							job, err := s.store.Submit(t.Context(), alice, o)
							hit = was()
							s.table.on(nil, nil)
							s.submitted(job, err)
						})
					})
					if !hit {
						break
					}
				}
			}
		})
	}
	t.Run("the queue", func(t *testing.T) {
		t.Parallel()
		for _, q := range []*queue{{before: errDown}, {after: errDown}} {
			inBubble(t, func(t *testing.T, s *site) {
				s.queue, s.store.Queue = q, q
				job, err := s.store.Submit(t.Context(), alice, s.told())
				if err == nil {
					t.Error("no error")
				}
				s.submitted(job, err)
			})
		}
	})
	t.Run("all is down from some operation on", func(t *testing.T) {
		t.Parallel()
		for n := 1; n <= 3; n++ {
			inBubble(t, func(t *testing.T, s *site) {
				count := 0
				s.table.on(func(string, table.Key) error {
					if count++; count >= n {
						return errDown
					}
					return nil
				}, nil)
				job, err := s.store.Submit(t.Context(), alice, order())
				s.table.on(nil, nil)
				if refusal, _ := errors.AsType[*api.Error](err); refusal == nil || refusal.Code != api.Unavailable || job.ID != "" {
					t.Errorf("%+v, %v", job, err)
				}
				if len(s.queue.ids) > 0 {
					t.Error("it is in the queue")
				}
			})
		}
	})
}

// submitted checks what Submit has answered, and what was sent.
func (s *site) submitted(job jobs.Job, err error) {
	s.Helper()
	for _, id := range s.queue.ids {
		s.do(id, nil)
	}
	if err != nil {
		refusal, _ := errors.AsType[*api.Error](err)
		if refusal == nil || refusal.Code != api.Unavailable || !errors.Is(err, errDown) || job.ID != "" {
			s.Errorf("%+v, %v", job, err)
		}
		left := sorts(s.items(""))
		left = slices.DeleteFunc(left, func(name string) bool { return strings.HasSuffix(name, " part") }) // which are nobody's: table.Large
		if len(left) > 0 || s.runs.Load() > 0 {
			s.Errorf("left is %q, and it ran %d times", left, s.runs.Load())
		}
		return
	}
	s.is(job.ID, jobs.Succeeded)
	if list, _, err := s.store.List(s.Context(), alice, "", 10); err != nil || len(list) != 1 {
		s.Errorf("listed are %v, %v", list, err)
	}
	if s.runs.Load() != 1 || len(s.mail.received()) != 1 {
		s.Errorf("%d runs, %d letters", s.runs.Load(), len(s.mail.received()))
	}
}

// A fault in Cancel or Delete is 503, and what was asked for happens when it is
// asked for again; a job that was cancelled or deleted never runs.
func TestCancelAndDeleteWithFaults(t *testing.T) {
	states := map[string]func(*site, string){
		"queued": func(*site, string) {}, "running": (*site).die,
		"succeeded": func(s *site, id string) { s.do(id, nil) },
	}
	for status, prepare := range states {
		for _, method := range []string{"POST", "DELETE"} {
			if status == "succeeded" && method == "POST" {
				continue
			}
			t.Run(method+" "+status, func(t *testing.T) {
				t.Parallel()
				for _, lost := range []bool{false, true} {
					for n, hit := 1, true; hit; n++ {
						inBubble(t, func(t *testing.T, s *site) {
							id := s.submit(s.told())
							prepare(s, id)
							runs := s.runs.Load()
							target := map[string]string{"POST": "/jobs/" + id + "/cancel", "DELETE": "/jobs/" + id}[method]
							before, after, was := faultAt(n, lost)
							s.table.on(before, after)
							first := s.ask(alice, method, target)
							hit = was()
							s.table.on(nil, nil)
							second := s.ask(alice, method, target)
							ok := map[string][]int{"POST": {200, 200}, "DELETE": {204, 404}}[method]
							switch {
							case first.status == ok[0] && second.status == ok[1]:
							case hit && first.status == 503 && first.header.Get("Retry-After") != "" && slices.Contains(ok, second.status):
							default:
								t.Errorf("fault %d, lost is %t: %+v, then %+v", n, lost, first, second)
							}
							time.Sleep(lease)
							s.do(id, nil)
							got := s.ask(alice, "GET", "/jobs/"+id)
							if method == "DELETE" && got.status != 404 || method == "POST" && !strings.Contains(got.body, `"status":"cancelled"`) {
								t.Errorf("fault %d, lost is %t: at last %+v", n, lost, got)
							}
							if list := s.ask(alice, "GET", "/jobs"); method == "DELETE" && strings.Contains(list.body, id) {
								t.Errorf("fault %d, lost is %t: listed is %s", n, lost, list.body)
							}
							if s.runs.Load() != runs {
								t.Errorf("fault %d, lost is %t: it ran", n, lost)
							}
							left := slices.DeleteFunc(sorts(s.items("")), func(name string) bool { return strings.HasSuffix(name, " part") }) // which are nobody's: table.Large
							if method == "DELETE" && len(left) > 0 {
								t.Errorf("fault %d, lost is %t: left is %q", n, lost, left)
							}
							for name, value := range s.items("job") {
								if strings.Contains(value, canary) {
									t.Errorf("fault %d, lost is %t: %s has the callback", n, lost, name)
								}
							}
						})
					}
				}
			})
		}
	}
}

// Who collides with another's write reads again and decides anew; one that never
// gets through is told so in time.
func TestCancelAgainstOthersWrites(t *testing.T) {
	t.Run("the run ends meanwhile", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.table.on(once("put job", func() error {
				s.do(id, nil)
				return nil
			}), nil)
			if got := s.ask(alice, "POST", "/jobs/"+id+"/cancel"); got.status != 409 {
				t.Errorf("%+v", got)
			}
			s.is(id, jobs.Succeeded)
		})
	})
	t.Run("it is deleted meanwhile", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.table.on(once("put job", func() error { return s.store.Delete(t.Context(), alice, id, false) }), nil)
			if got := s.ask(alice, "POST", "/jobs/"+id+"/cancel"); got.status != 404 {
				t.Errorf("%+v", got)
			}
			if left := s.items(""); len(left) > 0 {
				t.Errorf("left is %v", left)
			}
		})
	})
	t.Run("it begins meanwhile", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.run = waits
			var done <-chan error
			s.table.on(once("delete job", func() error {
				done = s.start(t.Context(), s.worker, id)
				return nil
			}), nil)
			if got := s.ask(alice, "DELETE", "/jobs/"+id); got.status != 204 {
				t.Errorf("%+v", got)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if left := s.items(""); len(left) > 0 {
				t.Errorf("left is %v", left)
			}
		})
	})
	t.Run("always", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *site) {
			id := s.submit(order())
			s.table.on(func(op string, _ table.Key) error {
				if op == "put" || op == "delete" {
					return table.ErrConflict
				}
				return nil
			}, nil)
			for _, route := range routesOf(id)[1:] {
				began := time.Now()
				got := s.ask(alice, route[0], route[1])
				if took := time.Since(began); got.status != 503 || took > 6*time.Second {
					t.Errorf("%s: after %v %+v", route[0], took, got)
				}
			}
		})
	})
}
