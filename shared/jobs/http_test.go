package jobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
)

// Contract §4: what an owner reads of a job, from its beginning to its end, to
// the letter.
func TestAJobsLife(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		time.Sleep(1500*time.Millisecond + 900*time.Microsecond)
		submitted, err := s.store.Submit(t.Context(), alice, order())
		if err != nil {
			t.Fatal(err)
		}
		id := submitted.ID
		reads := func(want string) {
			t.Helper()
			want = `{"id":"` + id + `",` + want + "}\n"
			got := s.ask(alice, "GET", "/jobs/"+id)
			if got.status != 200 || got.header.Get("Content-Type") != "application/json" || got.body != want {
				t.Errorf("%+v, want %s", got, want)
			}
			listed := strings.Replace(want, `{"response":"<done>&"}`, "null", 1)
			if got := s.ask(alice, "GET", "/jobs"); got.body != `{"jobs":[`+strings.TrimSuffix(listed, "\n")+`],"next":null}`+"\n" {
				t.Errorf("listed is %s", got.body)
			}
		}
		w := httptest.NewRecorder()
		if err := jobs.Accepted(w, submitted); err != nil {
			t.Error(err)
		}
		if w.Code != 202 || w.Header().Get("Location") != "/jobs/"+id || w.Body.String() != s.ask(alice, "GET", "/jobs/"+id).body {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		if diff := cmp.Diff([]string{id}, s.queue.ids); diff != "" {
			t.Errorf("sent is (-want +got):\n%s", diff)
		}
		reads(`"status":"queued","created_at":"2000-01-01T00:00:01.5Z","started_at":null,"finished_at":null,"result":null,"error":null`)

		time.Sleep(time.Second)
		var given struct {
			caller             auth.Caller
			requestID, request string
		}
		s.run = func(_ context.Context, caller auth.Caller, requestID string, request []byte) (any, error) {
			given.caller, given.requestID, given.request = caller, requestID, string(request)
			time.Sleep(30*time.Second + 4*time.Millisecond)
			return map[string]string{"response": "<done>&"}, nil
		}
		done := s.start(t.Context(), s.worker, id)
		reads(`"status":"running","created_at":"2000-01-01T00:00:01.5Z","started_at":"2000-01-01T00:00:02.5Z","finished_at":null,"result":null,"error":null`)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		reads(`"status":"succeeded","created_at":"2000-01-01T00:00:01.5Z","started_at":"2000-01-01T00:00:02.5Z","finished_at":"2000-01-01T00:00:32.504Z","result":{"response":"<done>&"},"error":null`)
		if diff := cmp.Diff(alice, given.caller); diff != "" || given.requestID != "request-of-order" || given.request != `{"message":"hello"}` {
			t.Errorf("%q, %q, the caller (-want +got):\n%s", given.requestID, given.request, diff)
		}
		if s.runs.Load() != 1 || strings.Count(s.log.String(), `"msg":"job"`) != 1 {
			t.Errorf("%d runs, and the log is\n%s", s.runs.Load(), s.log.String())
		}
	})
}

// The type and the label stand where there are some, awkward ones too.
func TestTypeAndLabel(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		for _, label := range awkward {
			o := order()
			o.Type, o.Label = "ask", label
			id := s.submit(o)
			want := `{"id":"` + id + `","type":"ask",`
			if label != "" {
				encoded, err := api.Encode(label)
				if err != nil {
					t.Fatal(err)
				}
				want += `"label":` + strings.TrimSpace(string(encoded)) + `,`
			}
			if got := s.ask(alice, "GET", "/jobs/"+id); !strings.HasPrefix(got.body, want+`"status":"queued"`) {
				t.Errorf("%s, want %s", got.body, want)
			}
		}
	})
}

// awkward is texts that JSON, Go or a table might change.
var awkward = []string{
	"", " ", "plain", "a\nb\r\n\tc", `"quoted" \"twice\" \\`, "<script>&amp;</script>", "\u2028\u2029\u0085", "\x00\x01\x1f\x7f", "\ufeff\U0001F600é日本語\ufffd", `{"status":"failed"}`, "{}", "null",
}

// I18: a result is read as it was returned, byte for byte, up to half of what a Lambda may answer.
func TestResults(t *testing.T) {
	const most = 6<<20/2 - 64<<10
	text := strings.Join(awkward, "")
	fitting := strings.Repeat("x", most-len(`""`)-1) // and a newline
	for _, row := range []struct {
		name   string
		result any
		fault  string // "": it succeeds
	}{
		{"a text", text, ""},
		{"nothing", nil, ""},
		{"an empty text", "", ""},
		{"an object", map[string]any{"b": []any{1, 1.5, nil, true}, "a": text}, ""},
		{"JSON that is written already", json.RawMessage(`{"z":1,"a":[1e3,-0.0,12345678901234567890],"z":"\u0041"}`), ""},
		{"as large as an item", strings.Repeat("x", 350<<10-len(`v""`)-1), ""},
		{"a byte larger", strings.Repeat("x", 350<<10-len(`v""`)), ""},
		{"2 MB, awkward", strings.Repeat(text, 2_000_000/len(text)/2), ""},
		{"the largest", fitting, ""},
		{"a byte too large", fitting + "x", "Model backend failed"},
		{"none that JSON has", make(chan int), "Internal error"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *site) {
				id := s.submit(s.told())
				s.run = says(row.result)
				s.do(id, nil)
				got := s.ask(alice, "GET", "/jobs/"+id)
				letters := s.mail.received()
				if len(letters) != 1 || letters[0].body != got.body {
					t.Errorf("the callback isn't told the same")
				}
				if row.fault != "" {
					var job jobs.Job
					if err := json.Unmarshal([]byte(got.body), &job); err != nil || job.Status != jobs.Failed || job.Error.Error != row.fault || string(job.Result) != "null" {
						t.Errorf("%v in %s", err, got.body)
					}
					return
				}
				encoded, err := api.Encode(row.result)
				if err != nil {
					t.Fatal(err)
				}
				_, result, _ := strings.Cut(got.body, `,"result":`)
				if want := strings.TrimSuffix(string(encoded), "\n") + `,"error":null}` + "\n"; result != want {
					t.Errorf("%.100q… of %d bytes, want %.100q… of %d", result, len(result), want, len(want))
				}
			})
		})
	}
}

// Contract §4: a list has the newest jobs first, without results, in pages that
// neither repeat nor pass over anything, whatever is deleted and added meanwhile.
func TestList(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		var ids []string
		for range 25 {
			time.Sleep(time.Millisecond)
			ids = append(ids, s.submit(order()))
			s.submitAs(bob, order())
		}
		s.do(ids[24], nil)
		slices.Reverse(ids)
		page := func(query string) (got []string, next string) {
			t.Helper()
			return s.page(query)
		}
		if got, next := page(""); cmp.Diff(ids[:20], got) != "" || next == "" {
			t.Errorf("the first page has %d, then %q", len(got), next)
		}
		for _, limit := range []int{1, 2, 5, 7, 24, 25, 26, 100} {
			var all []string
			pages := 0
			for query := fmt.Sprintf("?limit=%d", limit); ; pages++ {
				got, next := page(query)
				all = append(all, got...)
				if next == "" {
					break
				}
				if len(got) != limit {
					t.Errorf("limit %d: a page of %d", limit, len(got))
				}
				query = fmt.Sprintf("?limit=%d&after=%s", limit, next)
			}
			if diff := cmp.Diff(ids, all); diff != "" || pages != (len(ids)-1)/limit {
				t.Errorf("limit %d, %d pages (-want +got):\n%s", limit, pages+1, diff)
			}
		}

		_, next := page("?limit=5")
		time.Sleep(time.Millisecond)
		newest := s.submit(order())
		for _, id := range []string{ids[2], ids[4], ids[5], ids[8]} { // behind, at, before and in the next page
			if err := s.store.Delete(t.Context(), alice, id, false); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := page("?limit=5&after=" + next); cmp.Diff([]string{ids[6], ids[7], ids[9], ids[10], ids[11]}, got) != "" {
			t.Errorf("after deletions: %v", got)
		}
		if got, _ := page("?limit=2"); cmp.Diff([]string{newest, ids[0]}, got) != "" {
			t.Errorf("the newest: %v", got)
		}
	})
}

// page is the ids on a page of alice's list.
func (s *site) page(query string) (ids []string, next string) {
	s.Helper()
	var list struct {
		Jobs []jobs.Job
		Next *string
	}
	got := s.ask(alice, "GET", "/jobs"+query)
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || got.status != 200 || !strings.HasPrefix(got.body, `{"jobs":[`) {
		s.Fatalf("%v: %+v", err, got)
	}
	for _, job := range list.Jobs {
		ids = append(ids, job.ID)
		if job.Result != nil && string(job.Result) != "null" {
			s.Errorf("job %s has its result in the list", job.ID)
		}
	}
	if list.Next != nil {
		next = *list.Next
	}
	return ids, next
}

// A job that goes while a list is read isn't in it.
func TestListMeanwhileDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id, other := s.submit(order()), ""
		time.Sleep(time.Millisecond)
		other = s.submit(order())
		s.table.on(once("get job", func() error { return s.store.Delete(t.Context(), alice, id, false) }), nil)
		if got, next := s.page(""); cmp.Diff([]string{other}, got) != "" || next != "" {
			t.Errorf("%v, %q", got, next)
		}
	})
}

// What a list can't be asked is refused in words.
func TestListRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		s.submit(order())
		for query, says := range map[string]string{
			"?limit=0": `"limit" takes a whole number from 1 to 100`, "?limit=101": "from 1 to 100", "?limit=-1": "from 1 to 100", "?limit=x": "from 1 to 100", "?limit=": "from 1 to 100",
			"?limit=1&limit=1": `"limit" stands twice`, "?status=queued": `Known: "limit", "after"`,
			"?after=x": `"after" takes the "next" of the page before`, "?after=" + strings.Repeat("x", 46): `"after"`, "?after=" + strings.Repeat("x", 5000): `"after"`,
			"?after=" + strings.Repeat("%ff", 47): "not UTF-8",
		} {
			got := s.ask(alice, "GET", "/jobs"+query)
			if p := got.problem(t); got.status != 400 || p.Error != "Invalid request" || !strings.Contains(p.Detail, says) {
				t.Errorf("%s: %+v", query, got)
			}
		}
	})
}

// A table that can't be read is 503 for every route, and never somebody's 404.
func TestReadsWithFaults(t *testing.T) {
	bubble(t, func(t *testing.T, s *site) {
		id := s.submit(order())
		s.run = says(strings.Repeat("x", 800_000))
		s.do(id, nil)
		for _, target := range []string{"/jobs/" + id, "/jobs"} {
			for n, hit := 1, true; hit; n++ {
				before, after, was := faultAt(n, false)
				s.table.on(before, after)
				got := s.ask(alice, "GET", target)
				if hit = was(); hit != (got.status == 503) || hit && strings.Contains(got.body, errDown.Error()) {
					t.Errorf("%s, fault %d: %.300s", target, n, got.body)
				}
			}
		}
	})
}
