package audit_test

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"postern/shared/audit"
)

const eventText = `{"seq":1,"time":"t","actor":"a","action":"b","target":"c","request_id":"d","ip":"e","hash":"f","previous_hash":""}`

// read reads an export to its end, or to its fault.
func read(r io.Reader) (events []audit.Event, err error) {
	for e, fault := range audit.Read(r) {
		if fault != nil {
			return events, fault
		}
		events = append(events, e)
	}
	return events, nil
}

// exports are the cases of Read, and the seeds of its fuzzing.
var exports = []struct {
	name, text string
	events     int
	fault      string
}{
	{"nothing", "", 0, ""},
	{"white space", " \n\t\r\n", 0, ""},
	{"an event", eventText + "\n", 1, ""},
	{"events, one a line", eventText + "\n" + eventText + "\n", 2, ""},
	{"events, without lines", eventText + eventText, 2, ""},
	{"an event, spread over lines", strings.NewReplacer(",", ",\n  ", "{", "{\n  ").Replace(eventText), 1, ""},
	{"members in another order", `{"previous_hash":"","hash":"f","seq":1,"time":"t","actor":"a","action":"b","target":"c","request_id":"d","ip":"e"}`, 1, ""},
	{"an empty page", `{"events":[],"next":null}`, 0, ""},
	{"a page", `{"events":[` + eventText + `,` + eventText + `],"next":null}` + "\n", 2, ""},
	{"a page with its members the other way round", `{"next":null,"events":[` + eventText + `]}`, 1, ""},
	{"pages", `{"events":[` + eventText + `],"next":"1"}` + "\n" + `{"events":[` + eventText + `],"next":null}`, 2, ""},
	{"a page that was the last one, and more later", `{"events":[` + eventText + `],"next":null}` + "\n" + `{"events":[` + eventText + `],"next":null}`, 2, ""},
	{"pages and events", `{"events":[` + eventText + `],"next":"1"}` + eventText, 2, ""},

	{"a last page that has a next", `{"events":[` + eventText + `],"next":"1"}`, 1, `the last page has a "next"`},
	{"half an event", eventText[:40], 0, "cut short"},
	{"half a name", eventText[:4], 0, "unexpected EOF"},
	{"half a page", `{"events":[` + eventText + `,`, 1, "cut short"},
	{"a page without its end", `{"events":[` + eventText + `]`, 1, "cut short"},
	{"only a bracket", `{`, 0, "cut short"},
	{"a page cut at next", `{"events":[],"next":`, 0, "cut short"},
	{"a page cut in its list", `{"events":`, 0, "cut short"},
	{"an array", `[` + eventText + `]`, 0, "an object"},
	{"a number", `1`, 0, "an object"},
	{"null", `null`, 0, "an object"},
	{"no JSON", "hello", 0, "invalid character"},
	{"a byte order mark", "\ufeff" + eventText, 0, "invalid character"},
	{"a comma between events", eventText + "," + eventText, 1, "invalid character"},
	{"an empty object", `{}`, 0, "lacks some of its members"},
	{"an event without its hash", strings.Replace(eventText, `"hash":"f",`, "", 1), 0, "lacks some of its members"},
	{"an event without its ip, in a page", `{"events":[` + strings.Replace(eventText, `"ip":"e",`, "", 1) + `],"next":null}`, 0, "lacks some of its members"},
	{"a page without next", `{"events":[]}`, 0, "lacks some of its members"},
	{"a page without events", `{"next":null}`, 0, "lacks some of its members"},
	{"a page that is an event too", `{"events":[],"next":null,` + eventText[1:], 0, "lacks some of its members"},
	{"a list that says it has a number", `{"events":[],"seq":1}`, 0, "lacks some of its members"},
	{"an event with a next", `{"next":null,` + eventText[1:], 0, "lacks some of its members"},
	{"an event with a list, all but one member", `{"events":[],` + strings.Replace(eventText, `"ip":"e",`, "", 1)[1:], 0, "lacks some of its members"},
	{"a page in a page", `{"events":[{"events":[],"next":null}],"next":null}`, 0, "neither an event's nor a page's"},
	{"a member twice", `{"seq":1,` + eventText[1:], 0, "twice"},
	{"a page's member twice", `{"events":[],"next":"1","next":null}`, 0, "twice"},
	{"an unknown member", `{"x":1,` + eventText[1:], 0, "neither an event's nor a page's"},
	{"a name in another case", strings.Replace(eventText, `"ip"`, `"IP"`, 1), 0, "neither an event's nor a page's"},
	{"a number for a text", strings.Replace(eventText, `"e"`, `5`, 1), 0, `the value of "ip"`},
	{"null for a text", strings.Replace(eventText, `"e"`, `null`, 1), 0, `the value of "ip"`},
	{"null for the number", strings.Replace(eventText, `"seq":1`, `"seq":null`, 1), 0, `the value of "seq"`},
	{"a text for the number", strings.Replace(eventText, `"seq":1`, `"seq":"1"`, 1), 0, `the value of "seq"`},
	{"a fraction for the number", strings.Replace(eventText, `"seq":1`, `"seq":1.0`, 1), 0, `the value of "seq"`},
	{"a number beyond all", strings.Replace(eventText, `"seq":1`, `"seq":9223372036854775808`, 1), 0, `the value of "seq"`},
	{"a number for next", `{"events":[],"next":1}`, 0, `the value of "next"`},
	{"an object for the events", `{"events":{},"next":null}`, 0, "an array of events"},
	{"null for the events", `{"events":null,"next":null}`, 0, "an array of events"},
	{"a text among the events", `{"events":["x"],"next":null}`, 0, "an object"},
	{"bytes that are no UTF-8", strings.Replace(eventText, `"e"`, "\"\xff\"", 1), 0, `the value of "ip"`},
	{"a name of bytes that are no UTF-8", strings.Replace(eventText, `"ip"`, "\"i\xff\"", 1), 0, "neither an event's nor a page's"},
}

func TestRead(t *testing.T) {
	t.Parallel()
	var want audit.Event
	for e := range audit.Read(strings.NewReader(eventText)) {
		want = e
	}
	if diff := cmp.Diff(audit.Event{Seq: 1, Time: "t", Actor: "a", Action: "b", Target: "c", RequestID: "d", IP: "e", Hash: "f"}, want); diff != "" {
		t.Error(diff)
	}
	for _, row := range exports {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{strings.NewReader(row.text), iotest.OneByteReader(strings.NewReader(row.text)), iotest.DataErrReader(strings.NewReader(row.text))} {
				events, err := read(r)
				if len(events) != row.events {
					t.Errorf("%d events, want %d", len(events), row.events)
				}
				for _, e := range events {
					if e != want {
						t.Errorf("%+v", e)
					}
				}
				if row.fault == "" && err != nil || row.fault != "" && (err == nil || !strings.Contains(err.Error(), row.fault)) {
					t.Errorf("error %v, want %q", err, row.fault)
				}
				if err != nil && !strings.HasPrefix(err.Error(), "reading the export near byte ") {
					t.Errorf("error %q", err)
				}
			}
		})
	}
}

// A reader's own error ends it, and who stops is not asked on.
func TestReadStops(t *testing.T) {
	t.Parallel()
	events, err := read(io.MultiReader(strings.NewReader(eventText), iotest.ErrReader(errDown)))
	if len(events) != 1 || !errors.Is(err, errDown) {
		t.Errorf("%d events, %v", len(events), err)
	}
	for _, text := range []string{eventText + "x", `{"events":[` + eventText + `,x`} {
		for range audit.Read(strings.NewReader(text)) {
			break
		}
	}
}

// endless repeats a text.
type endless struct {
	text string
	i    int
}

func (e *endless) Read(p []byte) (int, error) {
	for n := range p {
		p[n] = e.text[e.i%len(e.text)]
		e.i++
	}
	return len(p), nil
}

// P15: what is endless is refused, or read in bounded memory. Not parallel, for
// it looks at the whole heap.
func TestReadIsBounded(t *testing.T) {
	for _, row := range []struct{ name, begin, repeat string }{
		{"white space", "", " "},
		{"white space in an event", "{", "\n"},
		{"a name", `{"`, "a"},
		{"a text", `{"actor":"`, "a"},
		{"a number", `{"seq":`, "1"},
		{"a depth", `{"actor":`, "["},
		{"a long list for a text", `{"actor":[`, `"a",`},
		{"white space in a page", `{"events":[`, " "},
	} {
		in := &endless{text: row.repeat}
		events, err := read(io.MultiReader(strings.NewReader(row.begin), in))
		if err == nil || len(events) != 0 || in.i > 128<<10 {
			t.Errorf("%s: %d events and %v after %d bytes", row.name, len(events), err, in.i)
		}
	}

	const many = 20_000
	next := io.LimitReader(&endless{text: `,` + eventText}, many*int64(len(eventText)+1))
	page := io.MultiReader(strings.NewReader(`{"events":[`+eventText), next, strings.NewReader(`],"next":null}`))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n, most := 0, uint64(0)
	for _, err := range audit.Read(page) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n%5000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&after)
			most = max(most, after.HeapAlloc)
		}
	}
	if n != many+1 || most > before.HeapAlloc+1<<20 {
		t.Errorf("%d events; %d bytes more", n, most-before.HeapAlloc)
	}
}

// FuzzRead: no export makes a panic (P15), and what is read of one is the same
// when it is written and read once more.
func FuzzRead(f *testing.F) {
	for _, row := range exports {
		f.Add(row.text)
	}
	f.Add(export(f, sixEvents(f), 2))
	f.Fuzz(func(t *testing.T, text string) {
		events, _ := read(strings.NewReader(text))
		again, err := read(strings.NewReader(lines(events)))
		if diff := cmp.Diff(events, again); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		audit.Verify(audit.Read(strings.NewReader(text)), audit.Head{})
	})
}
