package audit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/table"
)

// ask sends GET /audit with that query, and returns status and body, or the
// detail of a refusal.
func ask(l *audit.Log, query string) (status int, body string) {
	w := httptest.NewRecorder()
	err := l.List(w, httptest.NewRequest("GET", "/audit"+query, nil), auth.RootCaller())
	if err != nil {
		p := api.ProblemOf(err, "")
		return p.Status, p.Detail
	}
	return w.Code, w.Body.String()
}

// export is the whole chain as GET /audit answers it, page for page.
func export(t testing.TB, l *audit.Log, limit int) string {
	t.Helper()
	pages, after := "", "0"
	for {
		status, body := ask(l, fmt.Sprintf("?limit=%d&after=%s", limit, after))
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		pages += body
		_, rest, found := strings.Cut(body, `"next":"`)
		if !found {
			return pages
		}
		after, _, _ = strings.Cut(rest, `"`)
	}
}

// sixEvents is a chain of three acts.
func sixEvents(t testing.TB) *audit.Log {
	t.Helper()
	l := newLog()
	for range 3 {
		if _, err := l.Do(t.Context(), revoke, nothing); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// page is a body of GET /audit.
func page(events []audit.Event, next string) string {
	list := strings.ReplaceAll(strings.TrimSpace(lines(events)), "\n", ",")
	return `{"events":[` + list + `],"next":` + next + "}\n"
}

func TestList(t *testing.T) {
	t.Parallel()
	l := sixEvents(t)
	events := chain(t, l)
	for _, row := range []struct {
		name, query string
		status      int
		want        string
	}{
		{"all of it", "", 200, page(events, "null")},
		{"the first page", "?limit=2", 200, page(events[:2], `"2"`)},
		{"the next page", "?limit=2&after=2", 200, page(events[2:4], `"4"`)},
		{"a last page that is full", "?after=4&limit=2", 200, page(events[4:], "null")},
		{"a last page that is not", "?after=4&limit=3", 200, page(events[4:], "null")},
		{"a page of one", "?limit=1&after=0", 200, page(events[:1], `"1"`)},
		{"the largest page", "?limit=1000", 200, page(events, "null")},
		{"behind the end", "?after=6", 200, page(nil, "null")},
		{"far behind the end", "?after=9223372036854775807&limit=1", 200, page(nil, "null")},

		{"no limit", "?limit=", 400, `The query parameter "limit" takes a whole number from 1 to 1000, not "".`},
		{"a limit of 0", "?limit=0", 400, `The query parameter "limit" takes a whole number from 1 to 1000, not "0".`},
		{"a limit of 1001", "?limit=1001", 400, `The query parameter "limit" takes a whole number from 1 to 1000, not "1001".`},
		{"a limit in words", "?limit=ten", 400, `The query parameter "limit" takes a whole number from 1 to 1000, not "ten".`},
		{"a negative after", "?after=-1", 400, `The query parameter "after" takes a whole number from 0 to 9223372036854775807, not "-1".`},
		{"an after that is a hash", "?after=abc", 400, `The query parameter "after" takes a whole number from 0 to 9223372036854775807, not "abc".`},
		{"an unknown parameter", "?before=1", 400, `The query parameter "before" is not known here. Known: "limit", "after".`},
		{"a parameter twice", "?limit=1&limit=1", 400, `The query parameter "limit" stands twice.`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if status, body := ask(l, row.query); status != row.status || body != row.want {
				t.Errorf("%d\n%s\nwant %d\n%s", status, body, row.status, row.want)
			}
		})
	}
}

// 101 events are more than one page, and numbers of more digits come later.
func TestListInOrder(t *testing.T) {
	t.Parallel()
	l := newLog()
	for range 51 {
		if _, err := l.Do(t.Context(), revoke, nothing); err != nil {
			t.Fatal(err)
		}
	}
	if _, body := ask(l, ""); strings.Count(body, `"seq"`) != 100 || !strings.HasSuffix(body, "\"next\":\"100\"}\n") {
		t.Error(body[len(body)-100:])
	}
	for _, limit := range []int{1, 7, 102, 1000} {
		report, err := audit.Verify(audit.Read(strings.NewReader(export(t, l, limit))), audit.Head{})
		if err != nil || report.Events != 102 {
			t.Errorf("in pages of %d: %+v, %v", limit, report, err)
		}
	}
}

// broken is a table that can't be read.
type broken struct {
	table.Table
	list, get error
}

func (b broken) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	if b.list != nil {
		return nil, b.list
	}
	return b.Table.List(ctx, partition, q)
}

func (b broken) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if b.get != nil {
		return table.Item{}, b.get
	}
	return b.Table.Get(ctx, key)
}

func TestListOfBrokenTable(t *testing.T) {
	t.Parallel()
	l := sixEvents(t)
	for _, row := range []struct {
		name   string
		table  table.Table
		status int
	}{
		{"no list", broken{l.Table, errors.New("down"), nil}, 503},
		{"no look behind the page's end", broken{l.Table, nil, errors.New("down")}, 503},
		{"all well", broken{l.Table, nil, nil}, 200},
	} {
		if status, body := ask(&audit.Log{Table: row.table}, "?limit=2"); status != row.status {
			t.Errorf("%s: %d %s", row.name, status, body)
		}
	}
	_, err := (&audit.Log{Table: broken{l.Table, errDown, nil}}).Do(t.Context(), revoke, func(context.Context) error { t.Error("done"); return nil })
	if !errors.Is(err, errDown) || api.ProblemOf(err, "").Status != 503 {
		t.Errorf("Do: %v", err)
	}
	items, err := l.Table.List(t.Context(), "audit", table.Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Table.Put(t.Context(), items[0].Key, []byte("x"), 1, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask(l, ""); status != 500 {
		t.Errorf("a damaged item: %d", status)
	}
	if status, body := ask(l, "?after=1"); status != 200 {
		t.Errorf("what is behind it: %d %s", status, body)
	}
}
