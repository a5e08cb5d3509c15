package audit_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/table"
	"postern/shared/table/memory"
)

// lines writes events as an export has them, one a line.
func lines(events []audit.Event) string {
	var b strings.Builder
	for _, e := range events {
		line, err := api.Encode(e)
		if err != nil {
			panic(err)
		}
		b.Write(line)
	}
	return b.String()
}

// hashOf is the hash as the documentation of Event has it, written once more.
func hashOf(e audit.Event) string {
	text := ""
	for _, s := range []string{"postern-audit-1", fmt.Sprint(e.Seq), e.Time, e.Actor, e.Action, e.Target, e.RequestID, e.IP, e.PreviousHash} {
		text += fmt.Sprintf("%d:%s,", len(s), s)
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

// The encoding behind the hash is forever: chains and noted heads out there
// depend on it. These figures were computed by another program, of
//
//	printf '15:postern-audit-1,1:1,24:2026-03-04T12:00:00.070Z,4:root,11:keys.revoke,8:ключ,9:request-1,9:192.0.2.7,0:,' | sha256sum
func TestGoldenHash(t *testing.T) {
	t.Parallel()
	l, act := newLog(), revoke
	act.Target = "ключ"
	outcome, err := l.Do(t.Context(), act, nothing)
	if err != nil {
		t.Fatal(err)
	}
	const first = "1a9a54edbdd7ead39d0f0950fd4bfcfabd837fac59240a29b499352888125d6b"
	const second = "51d6f5481f991140e287f876554fd0204214bd3df1c71254ac6f88b1dc56c712"
	if outcome.PreviousHash != first || outcome.Hash != second {
		t.Errorf("the hashes are %s and %s", outcome.PreviousHash, outcome.Hash)
	}
}

// randomChain is the chain of random acts, some of them without an outcome, and
// whether it ended in one of those.
func randomChain(t testing.TB, random *rand.Rand, acts int) []audit.Event {
	t.Helper()
	l := newLog()
	f := &faulty{Table: l.Table, before: map[int]error{}}
	l.Table = f
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	for i := range acts {
		if random.IntN(8) == 0 {
			f.before[f.puts+2] = errDown
		}
		failure := []error{nil, nil, table.ErrConflict, errDown}[random.IntN(4)]
		l.Do(t.Context(), audit.Act{
			Actor:     pick("root", "admin", "4fGh00aaBBcc"),
			Action:    pick("keys.create", "keys.revoke", "keys.rotate"),
			Target:    pick("", "4fGh00aaBBcc", "ключ"),
			RequestID: fmt.Sprint("request-", i),
			IP:        pick("192.0.2.7", "2001:db8::7"),
		}, func(context.Context) error { return failure })
	}
	return chain(t, l)
}

// rechain makes events a chain again from number i on, as somebody would who can
// write to the table and knows how hashes are made.
func rechain(events []audit.Event, i int) {
	for ; i < len(events); i++ {
		events[i].Seq, events[i].PreviousHash = 1, ""
		if i > 0 {
			events[i].Seq, events[i].PreviousHash = events[i-1].Seq+1, events[i-1].Hash
		}
		events[i].Hash = hashOf(events[i])
	}
}

// altered changes one field of e.
var altered = map[string]func(e *audit.Event){
	"seq":                  func(e *audit.Event) { e.Seq++ },
	"seq, far away":        func(e *audit.Event) { e.Seq = -e.Seq << 40 },
	"time":                 func(e *audit.Event) { e.Time = "2026-03-04T12:00:00.008Z" },
	"the form of the time": func(e *audit.Event) { e.Time = "2026-03-04T12:00:00.0070Z" },
	"actor":                func(e *audit.Event) { e.Actor += "x" },
	"action":               func(e *audit.Event) { e.Action = "keys.update" },
	"target":               func(e *audit.Event) { e.Target = "x" },
	"request_id":           func(e *audit.Event) { e.RequestID = strings.ToUpper(e.RequestID) },
	"ip":                   func(e *audit.Event) { e.IP = "192.0.2.8" },
	"hash":                 func(e *audit.Event) { e.Hash = hashOf(audit.Event{}) },
	"the hash's case":      func(e *audit.Event) { e.Hash = strings.ToUpper(e.Hash) },
	"an empty hash":        func(e *audit.Event) { e.Hash = "" },
	"previous_hash":        func(e *audit.Event) { e.PreviousHash = hashOf(audit.Event{}) },
	"no previous_hash":     func(e *audit.Event) { e.PreviousHash += "0" },
	"a letter that moved from one field to the next": func(e *audit.Event) {
		e.Actor, e.Action = e.Actor[:len(e.Actor)-1], e.Actor[len(e.Actor)-1:]+e.Action
	},
	"two fields for one another": func(e *audit.Event) { e.Actor, e.RequestID = e.RequestID, e.Actor },
}

// tampering is every kind of change to a chain. It changes event i, of several,
// and says whether that needs a logged head to be found, because a chain comes
// out that is whole in itself.
var tampering = map[string]func(events []audit.Event, i int) (changed []audit.Event, whole bool){
	"removed": func(events []audit.Event, i int) ([]audit.Event, bool) {
		return slices.Delete(events, i, i+1), i == len(events)-1
	},
	"removed, the rest written anew": func(events []audit.Event, i int) ([]audit.Event, bool) {
		events = slices.Delete(events, i, i+1)
		rechain(events, i)
		return events, true
	},
	"removed, the rest numbered anew": func(events []audit.Event, i int) ([]audit.Event, bool) {
		last := i == len(events)-1
		events = slices.Delete(events, i, i+1)
		for j := i; j < len(events); j++ {
			events[j].Seq--
		}
		return events, last
	},
	"given twice": func(events []audit.Event, i int) ([]audit.Event, bool) {
		return slices.Insert(events, i, events[i]), false
	},
	"swapped with the next": func(events []audit.Event, i int) ([]audit.Event, bool) {
		j := (i + 1) % len(events)
		events[i], events[j] = events[j], events[i]
		return events, false
	},
	"swapped with the next, the rest written anew": func(events []audit.Event, i int) ([]audit.Event, bool) {
		j := (i + 1) % len(events)
		events[i], events[j] = events[j], events[i]
		rechain(events, 0)
		return events, true
	},
	"moved to the front": func(events []audit.Event, i int) ([]audit.Event, bool) {
		i = max(i, 1)
		e := events[i]
		return slices.Insert(slices.Delete(events, i, i+1), 0, e), false
	},
	"forged before it": func(events []audit.Event, i int) ([]audit.Event, bool) {
		forged := events[i]
		forged.Target = "forged"
		forged.Hash = hashOf(forged)
		return slices.Insert(events, i, forged), false
	},
	"forged before it, the rest written anew": func(events []audit.Event, i int) ([]audit.Event, bool) {
		forged := events[i]
		forged.Target = "forged"
		events = slices.Insert(events, i, forged)
		rechain(events, i)
		return events, true
	},
	"altered, with its hash": func(events []audit.Event, i int) ([]audit.Event, bool) {
		events[i].Target = "forged"
		events[i].Hash = hashOf(events[i])
		return events, i == len(events)-1
	},
	"altered, the rest written anew": func(events []audit.Event, i int) ([]audit.Event, bool) {
		events[i].Target = "forged"
		rechain(events, i)
		return events, true
	},
	"cut off with all behind it": func(events []audit.Event, i int) ([]audit.Event, bool) {
		return events[:i], true
	},
	"cut off with all before it": func(events []audit.Event, i int) ([]audit.Event, bool) {
		return events[i+1:], i == len(events)-1
	},
}

// P12: each single change of a chain is found against a logged head that isn't
// older, wherever it is; and without one, unless a whole chain is left.
func TestP12Tampering(t *testing.T) {
	t.Parallel()
	kinds := map[string]func([]audit.Event, int) ([]audit.Event, bool){}
	for name, change := range tampering {
		kinds[name] = change
	}
	for name, change := range altered {
		kinds["altered: "+name] = func(events []audit.Event, i int) ([]audit.Event, bool) {
			change(&events[i])
			return events, false
		}
	}
	for seed := range uint64(25) {
		random := rand.New(rand.NewPCG(seed, 12))
		events := randomChain(t, random, 2+random.IntN(6))
		last := events[len(events)-1].Head()
		if report, err := verify(events, audit.Head{}, last); err != nil || report.Head != last {
			t.Fatalf("seed %d, untouched: %+v, %v", seed, report, err)
		}
		for _, name := range slices.Sorted(maps.Keys(kinds)) { // in order, or a seed would not say which event it was
			change, i := kinds[name], random.IntN(len(events))
			changed, whole := change(slices.Clone(events), i)
			if cmp.Equal(changed, events) {
				t.Fatalf("seed %d, event %d of %d, %s: not changed", seed, i+1, len(events), name)
			}
			logged := events[i+random.IntN(len(events)-i)].Head()
			for about, heads := range map[string][]audit.Head{"the last head": {last}, "a later head": {logged}, "no head": nil, "all heads": headsOf(events)} {
				if heads == nil && whole {
					continue
				}
				_, err := verify(changed, audit.Head{}, heads...)
				if !errors.As(err, new(*audit.Broken)) {
					t.Errorf("seed %d, event %d of %d, %s; against %s: %v", seed, i+1, len(events), name, about, err)
				}
			}
		}
	}
}

func headsOf(events []audit.Event) []audit.Head {
	heads := []audit.Head{}
	for _, e := range events {
		heads = append(heads, e.Head())
	}
	return heads
}

// What is said of a broken chain names the event and what happened to it, and
// the report goes up to the event before.
func TestBroken(t *testing.T) {
	t.Parallel()
	l := newLog()
	for i := range 3 {
		act := revoke
		act.RequestID = fmt.Sprint("request-", i)
		if _, err := l.Do(t.Context(), act, nothing); err != nil {
			t.Fatal(err)
		}
	}
	events := chain(t, l)
	heads := headsOf(events)
	other := hashOf(audit.Event{})
	for _, row := range []struct {
		name   string
		change func(e []audit.Event) []audit.Event
		after  audit.Head
		logged []audit.Head
		whole  int64 // how many events are found whole
		want   string
	}{
		{"the whole chain", same, audit.Head{}, heads, 6, ""},
		{"nothing at all", func([]audit.Event) []audit.Event { return nil }, audit.Head{}, nil, 0, ""},
		{"a part, behind a known head", from(3), heads[2], heads[2:], 3, ""},
		{"nothing behind a known head", from(6), heads[5], heads[5:], 0, ""},
		{"more events than the logged head", same, audit.Head{}, heads[3:4], 6, ""},
		{"one head logged twice", same, audit.Head{}, []audit.Head{heads[3], heads[3]}, 6, ""},

		{"altered", func(e []audit.Event) []audit.Event { e[2].Actor = "x"; return e }, audit.Head{}, nil, 2,
			"the audit chain is broken at event 3: it was altered"},
		{"removed", func(e []audit.Event) []audit.Event { return slices.Delete(e, 2, 4) }, audit.Head{}, nil, 2,
			"the audit chain is broken at event 3: it is missing: event 5 comes instead"},
		{"the first removed", from(1), audit.Head{}, nil, 0,
			"the audit chain is broken at event 1: it is missing: event 2 comes instead"},
		{"given twice", func(e []audit.Event) []audit.Event { return slices.Insert(e, 3, e[2]) }, audit.Head{}, nil, 3,
			"the audit chain is broken at event 4: event 3 comes instead"},
		{"replaced", func(e []audit.Event) []audit.Event { e[2].Actor = "x"; e[2].Hash = hashOf(e[2]); return e }, audit.Head{}, nil, 3,
			"the audit chain is broken at event 4: its previous_hash is not"},
		{"replaced, against its logged head", func(e []audit.Event) []audit.Event { e[2].Actor = "x"; e[2].Hash = hashOf(e[2]); return e }, audit.Head{}, heads, 2,
			"the audit chain is broken at event 3: another hash was logged"},
		{"cut", func(e []audit.Event) []audit.Event { return e[:4] }, audit.Head{}, heads[5:], 4,
			"the audit chain is broken at event 6: it was logged, and the chain ends at event 4"},
		{"all of it gone", func([]audit.Event) []audit.Event { return nil }, audit.Head{}, heads[:1], 0,
			"the audit chain is broken at event 1: it was logged, and the chain ends at event 0"},
		{"nothing behind a known head, and more was logged", from(6), heads[4], heads[5:], 0,
			"the audit chain is broken at event 6: it was logged, and the chain ends at event 5"},
		{"a part, behind another hash", from(3), audit.Head{Seq: 3, Hash: other}, nil, 0,
			"the audit chain is broken at event 4: its previous_hash is not"},
		{"two hashes logged for one event", same, audit.Head{}, []audit.Head{heads[3], {Seq: 4, Hash: other}}, 0,
			"the audit chain is broken at event 4: two different hashes"},
		{"the known head, and another hash logged for it", from(3), heads[2], []audit.Head{{Seq: 3, Hash: other}}, 0,
			"the audit chain is broken at event 3: two different hashes"},

		{"a logged head before the part", from(3), heads[2], heads[1:2], 0, "the logged event 2 is not in the part of the chain behind event 3"},
		{"a logged head without a hash", same, audit.Head{}, []audit.Head{{Seq: 2}}, 0, "a logged head has the number of an event and its hash"},
		{"a logged head without a number", same, audit.Head{}, []audit.Head{{Hash: other}}, 0, "a logged head has the number of an event and its hash"},
		{"a beginning without a hash", from(3), audit.Head{Seq: 3}, nil, 0, "give both, or neither"},
		{"a beginning without a number", same, audit.Head{Hash: other}, nil, 0, "give both, or neither"},
		{"a beginning before all", same, audit.Head{Seq: -1, Hash: other}, nil, 0, "give both, or neither"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			report, err := verify(row.change(slices.Clone(events)), row.after, row.logged...)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.HasPrefix(err.Error(), row.want) && !strings.Contains(err.Error(), row.want)) {
				t.Errorf("error %v, want %q", err, row.want)
			}
			if errors.As(err, new(*audit.Broken)) != strings.HasPrefix(row.want, "the audit chain is broken") {
				t.Errorf("error %#v", err)
			}
			if report.Events != row.whole || report.Head.Seq != row.after.Seq+row.whole {
				t.Errorf("%+v, want %d whole events", report, row.whole)
			}
		})
	}
}

func same(events []audit.Event) []audit.Event { return events }

func from(i int) func([]audit.Event) []audit.Event {
	return func(events []audit.Event) []audit.Event { return events[i:] }
}

// Which intents and outcomes are reported, apart from whether the chain is whole.
func TestUnmatched(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		events []string // action, request id, target
		after  int      // verify from there
		want   []int64
	}{
		{"an act", []string{"a r t", "a.succeeded r t"}, 0, nil},
		{"each kind of outcome", []string{"a 1 t", "b 2 t", "c 3 t", "a.succeeded 1 t", "b.failed 2 t", "c.unknown 3 t"}, 0, nil},
		{"acts in one another", []string{"a 1 t", "a 2 t", "a.failed 1 t", "a.succeeded 2 t"}, 0, nil},
		{"one action on two targets", []string{"a 1 t", "a 1 u", "a.failed 1 t", "a.failed 1 u"}, 0, nil},
		{"an act done again", []string{"a 1 t", "a.failed 1 t", "a 1 t", "a.succeeded 1 t"}, 0, nil},
		{"an intent alone", []string{"a 1 t"}, 0, []int64{1}},
		{"intents among others", []string{"a 1 t", "b 1 t", "a 2 t", "a.failed 2 t", "b 2 t"}, 0, []int64{1, 2, 5}},
		{"an outcome of another request", []string{"a 1 t", "a.failed 2 t"}, 0, []int64{1, 2}},
		{"an outcome of another action", []string{"a 1 t", "b.failed 1 t"}, 0, []int64{1, 2}},
		{"an outcome of an action that begins like it", []string{"a 1 t", "a.b.failed 1 t"}, 0, []int64{1, 2}},
		{"an outcome for another target", []string{"a 1 t", "a.failed 1 u"}, 0, []int64{1, 2}},
		{"an outcome before its intent", []string{"a.failed 1 t", "a 1 t"}, 0, []int64{1, 2}},
		{"two outcomes", []string{"a 1 t", "a.unknown 1 t", "a.succeeded 1 t"}, 0, []int64{3}},
		{"two intents, the later one with an outcome", []string{"a 1 t", "a 1 t", "a.succeeded 1 t"}, 0, []int64{1}},
		{"an outcome whose intent is before the part", []string{"a 1 t", "a.succeeded 1 t"}, 1, []int64{2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var events []audit.Event
			for _, line := range row.events {
				word := strings.Fields(line)
				events = append(events, audit.Event{Action: word[0], RequestID: word[1], Target: word[2]})
			}
			rechain(events, 0)
			after := audit.Head{}
			if row.after > 0 {
				after = events[row.after-1].Head()
			}
			report, err := verify(events[row.after:], after)
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for _, e := range report.Unmatched {
				if e != events[e.Seq-1] {
					t.Errorf("%+v is not event %d", e, e.Seq)
				}
				got = append(got, e.Seq)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A broken chain's report still says what was open before the fault; and a
// reader's error is not taken for a fault of the chain, nor for its end.
func TestUnmatchedBeforeFault(t *testing.T) {
	t.Parallel()
	events := []audit.Event{{Action: "a"}, {Action: "b"}, {Action: "b.failed"}}
	rechain(events, 0)
	events[2].Actor = "x"
	report, err := verify(events, audit.Head{})
	if !errors.As(err, new(*audit.Broken)) || len(report.Unmatched) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	report, err = audit.Verify(audit.Read(strings.NewReader(lines(events[:2])+"{")), audit.Head{})
	if err == nil || errors.As(err, new(*audit.Broken)) || report.Events != 2 || len(report.Unmatched) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

// The table itself tampered with: the export shows what stands there now.
func TestTamperedTable(t *testing.T) {
	t.Parallel()
	store := &memory.Table{}
	l := &audit.Log{Table: store, Now: noon}
	var head audit.Head
	for range 3 {
		e, err := l.Do(t.Context(), revoke, nothing)
		if err != nil {
			t.Fatal(err)
		}
		head = e.Head()
	}
	items, err := store.List(t.Context(), "audit", table.Query{Reversed: true, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if err := store.Delete(t.Context(), item.Key, item.Version); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Do(t.Context(), audit.Act{Actor: "mallory", Action: "keys.create", RequestID: "r"}, nothing); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(chain(t, l), audit.Head{}); err != nil {
		t.Errorf("without a head it is a whole chain, but: %v", err)
	}
	if _, err := verify(chain(t, l), audit.Head{}, head); !errors.As(err, new(*audit.Broken)) {
		t.Errorf("against the logged head: %v", err)
	}
}
