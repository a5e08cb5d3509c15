package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/shared/check"
	"postern/tests/dynamofake"
)

// nobodys is a key by its form and its checksum, which nobody was given.
const nobodys = "postern_000000000000_00000000000000000000000000000000000000000004PPBRr"

// TestP1ATableThatFailsDenies breaks DynamoDB in every way: whoever could be
// right is told neither yes nor no, and whoever is wrong in any case is told so
// without asking.
func TestP1ATableThatFailsDenies(t *testing.T) {
	t.Parallel()
	hang, release := dynamofake.Hang()
	t.Cleanup(release) // once the parallel subtests are through
	item := func(more string) *dynamofake.Fault {
		return dynamofake.Garbage(200, `{"Item":{"pk":{"S":"key#0"},"sk":{"S":"000000000000"}`+more+`}}`).On("GetItem")
	}
	for name, row := range map[string]struct {
		fault *dynamofake.Fault
		reads bool // it is about reads of one item alone
	}{
		"an error":                    {fault: dynamofake.Fail(500, "InternalServerError")},
		"access denied":               {fault: dynamofake.Fail(400, "AccessDeniedException")},
		"no such table":               {fault: dynamofake.Fail(400, "ResourceNotFoundException")},
		"throttling":                  {fault: dynamofake.Throttle()},
		"a broken connection":         {fault: dynamofake.Drop()},
		"an answer that is cut":       {fault: dynamofake.Cut()},
		"half an answer, and no more": {fault: dynamofake.Stall()},
		"a hang":                      {fault: hang},
		"a page for people":           {fault: dynamofake.Garbage(200, "<html>")},
		"an empty answer":             {fault: dynamofake.Garbage(200, "")},
		"a list":                      {fault: dynamofake.Garbage(200, "[]")},
		"an item of another key":      {fault: item(`,"ver":{"N":"1"},"val":{"B":"e30="}`), reads: true},
		"an item without a value":     {fault: item(`,"ver":{"N":"1"}`), reads: true},
		"an item of counters":         {fault: item(`,"requests":{"N":"1"}`), reads: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := stack{atOnce: 5}.deploy(t)
			s := d.side(t)
			cold := s.issue(t, token, `{"name":"cold","scopes":["agents:read"]}`)
			s.as(t, token, get("/whoami", fine))
			mistyped := cold.Token[:30] + string(cold.Token[30]^1) + cold.Token[31:]

			d.table.Inject(row.fault)
			calls := d.table.Calls("")
			for _, wrong := range []string{"", mistyped, cold.Token + "x", cold.Token[:60], strings.ToUpper(cold.Token)} {
				s.as(t, wrong, get("/agents", refused))
			}
			s.as(t, "", get("/health", fine))
			if got := d.table.Calls(""); got != calls {
				t.Errorf("wrong credentials cost %d calls", got-calls)
			}

			// The root token is right, and what it asks for can't be counted or done.
			others := outage
			if row.reads {
				others = fine
			}
			var all sync.WaitGroup
			ask := func(credential string, c check.Case) { all.Go(func() { s.as(t, credential, c) }) }
			ask(cold.Token, get("/agents", unavailable))
			ask(nobodys, get("/agents", unavailable))
			ask(token, get("/agents", others))
			ask(token, send("POST", "/chat", `{"message":"hello"}`, others))
			if !row.reads {
				ask(token, get("/keys", outage))
				ask(token, get("/audit", outage))
				ask(token, send("POST", "/keys", `{"name":"x","scopes":["chat"]}`, outage))
			}
			all.Wait()

			d.table.Heal()
			s.as(t, cold.Token, get("/agents", fine))
			s.as(t, nobodys, get("/agents", refused))
			if logs := d.logs(); leakedKey(logs, cold.Token) != "" || leaked(logs) != "" {
				t.Error("P4: the logs have a token in them")
			}
		})
	}
}

// TestP1AKeyIsCachedForFiveSeconds: as long it costs no call, and then nobody
// is let in whose record can't be read, though all else goes on.
func TestP1AKeyIsCachedForFiveSeconds(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	s := d.side(t)
	key := s.issue(t, token, `{"name":"warm","scopes":["agents:read"]}`)
	s.as(t, token, get("/whoami", fine)) // whose function need not start any more
	counts, read := d.table.Calls("UpdateItem"), time.Now()
	s.as(t, key.Token, get("/whoami", fine))
	answered := time.Now()
	d.table.Inject(dynamofake.Fail(500, "InternalServerError").On("GetItem"))

	calls, requests := d.table.Calls("GetItem"), 0
	for requests < 10 && time.Since(read) < bound/2 { // else it has to be read anew
		s.as(t, key.Token, get("/whoami", fine))
		requests++
	}
	if n := d.table.Calls("GetItem") - calls; n != 0 || requests == 0 {
		t.Errorf("a cached key costs %d reads in %d requests", n, requests)
	}
	if n := d.table.Calls("UpdateItem") - counts; n > requests+5 {
		t.Errorf("%d requests cost %d counts", requests+1, n)
	}
	for over := false; !over; time.Sleep(50 * time.Millisecond) {
		sent := time.Now()
		status := s.status(t, key.Token)
		switch over = sent.Sub(answered) > bound; {
		case over && status != 503, status != 200 && status != 503:
			t.Errorf("%d, %s after the record was read", status, sent.Sub(answered))
		case status == 503 && time.Since(read) < bound-100*time.Millisecond:
			t.Errorf("%d, %s after the record was read", status, time.Since(read))
		}
	}
	s.as(t, key.Token, get("/whoami", unavailable))
	s.as(t, token, get("/whoami", fine))
	d.table.Heal()
	s.as(t, key.Token, get("/whoami", fine))
}

// TestP12AFaultIsNotAcknowledged: wherever an act breaks off, nobody is told that
// it was done, and no key is shown; the audit log tells of what may have happened.
func TestP12AFaultIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	// What an act writes, in this order.
	const intent, outcome = 0, 2
	for name, row := range map[string]struct {
		fault func() *dynamofake.Fault
		done  bool // what was asked is done all the same
	}{
		"an error":      {func() *dynamofake.Fault { return dynamofake.Fail(500, "InternalServerError") }, false},
		"throttling":    {dynamofake.Throttle, false},
		"a lost answer": {dynamofake.Lose, true},
		"a wrong error": {dynamofake.Blur, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, nil, nil)
			s := d.side(t)
			for _, act := range []check.Case{
				send("POST", "/keys", `{"name":"under fire","scopes":["chat"]}`, outage),
				send("PATCH", "/keys/{id}", `{"name":"after"}`, outage),
				send("POST", "/keys/{id}/rotate", `{"grace":"1h"}`, outage),
				send("DELETE", "/keys/{id}", "", outage),
			} {
				for step := intent; step <= outcome; step++ {
					key := s.issue(t, token, `{"name":"before","scopes":["agents:read"]}`)
					c := act
					c.Name = fmt.Sprintf("%s, %s %s, write %d", name, act.Method, act.Path, step)
					c.Path = strings.ReplaceAll(act.Path, "{id}", key.ID)
					before := s.chain(t)
					if step > intent {
						d.table.Inject(dynamofake.Meanwhile(func() {}).On("PutItem").Times(step))
					}
					d.table.Inject(row.fault().On("PutItem"))
					answer := s.as(t, token, c)
					d.table.Heal()
					if text := string(answer.Body); strings.Contains(text, "postern_") || strings.Contains(text, `"key"`) {
						t.Errorf("%s: a key is shown: %s", c.Name, text)
					}

					events := s.chain(t)
					halves := verify(t, events, d.logs())
					wrote := actions(events[len(before):])
					want := map[int]string{intent: "", 1: "one", outcome: "one"}[step]
					if row.done {
						want = map[int]string{intent: "one", 1: "two", outcome: "two"}[step]
					}
					if got := []string{"", "one", "two"}[len(strings.Fields(wrote))]; got != want {
						t.Errorf("%s: the audit log has got %q", c.Name, wrote)
					}
					for _, e := range halves {
						if _, outcome := e.Act(); outcome != "" {
							t.Errorf("%s: an outcome without an intent: %v", c.Name, e)
						}
					}
					if half := len(strings.Fields(wrote)) == 1; half && (len(halves) == 0 || halves[len(halves)-1].Seq != events[len(events)-1].Seq) {
						t.Errorf("%s: the verification doesn't tell of the intent: %v", c.Name, halves)
					}
					s.after(t, c, key, row.done && step > intent || step == outcome)
				}
			}
			if strings.Contains(d.logs(), "postern_") {
				t.Error("P4: the logs have a key in them")
			}
		})
	}
}

// TestP12AnOutcomeThatNobodyKnowsIsTold: where the record may be written or not,
// that is what the audit log says.
func TestP12AnOutcomeThatNobodyKnowsIsTold(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	s := d.side(t)
	for listed, fault := range []*dynamofake.Fault{dynamofake.Fail(500, "InternalServerError"), dynamofake.Lose()} {
		d.table.Inject(dynamofake.Meanwhile(func() {}).On("PutItem").Times(1)) // the intent
		d.table.Inject(fault.On("PutItem").Times(2))                           // both tries
		s.as(t, token, send("POST", "/keys", `{"name":"under fire","scopes":["chat"]}`, outage))
		eventually(t, "the log tells of the act", func() bool { return len(heads(d.logs())) > listed })
		events := s.chain(t)
		if got := actions(events[2*listed:]); got != "keys.create keys.create.unknown" {
			t.Errorf("the audit log has %s", got)
		}
		if halves := verify(t, events, d.logs()); len(halves) > 0 || len(heads(d.logs())) != listed+1 {
			t.Errorf("the audit log has halves %v, and the log tells of %v", halves, heads(d.logs()))
		}
		if got := decode[struct{ Keys []record }](t, s.as(t, token, get("/keys", fine))).Keys; len(got) != listed {
			t.Errorf("there are %v", got)
		}
	}
}

// after: what an act that broke off has done to the key that it was about.
func (s side) after(t *testing.T, act check.Case, key check.Key, done bool) {
	t.Helper()
	r := decode[record](t, s.as(t, token, get("/keys/"+key.ID, fine)))
	switch {
	case act.Method == "PATCH" && (r.Name == "after") != done,
		act.Method == "DELETE" && (r.RevokedAt != nil) != done,
		strings.HasSuffix(act.Path, "/rotate") && (r.PreviousExpiresAt != nil) != done:
		t.Errorf("%s: the record is %+v", act.Name, r)
	}
	if act.Method != "DELETE" { // the token that was there works on, rotated or not
		s.as(t, key.Token, get("/whoami", check.Want{Status: 200, JSON: map[string]any{"id": key.ID}}))
	}
}
