package api_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
)

// A query has known parameters, once each, and each takes what it takes.
func TestQuery(t *testing.T) {
	t.Parallel()
	type values struct {
		key   string
		limit int
		from  time.Time
	}
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	const known = `Known: "key", "limit", "from".`
	for _, row := range []struct {
		name, query string
		want        values
		detail      string // of the refusal; "": there is none
	}{
		{"nothing", "", values{limit: 10}, ""},
		{"all of them", "key=a&limit=3&from=2026-03-04T12:00:00Z", values{"a", 3, noon}, ""},
		{"another time zone", "from=2026-03-04T13:00:00%2B01:00", values{"", 10, noon}, ""},
		{"the lowest", "limit=1", values{limit: 1}, ""},
		{"the highest", "limit=50", values{limit: 50}, ""},
		{"escapes", "key=a%20b%26c+d", values{"a b&c d", 10, time.Time{}}, ""},
		{"a text that is empty", "key=", values{limit: 10}, ""},
		{"a name alone", "key", values{limit: 10}, ""},
		{"separators alone", "&&", values{limit: 10}, ""},

		{"below the lowest", "limit=0", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "0".`},
		{"above the highest", "limit=51", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "51".`},
		{"beyond all numbers", "limit=99999999999999999999", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "99999999999999999999".`},
		{"an empty number", "limit=", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "".`},
		{"a word", "limit=ten", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "ten".`},
		{"a fraction", "limit=1.5", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "1.5".`},
		{"a sign", "limit=%2B5", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "+5".`},
		{"a leading zero", "limit=05", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "05".`},
		{"a space", "limit=+5", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not " 5".`},
		{"another script's digits", "limit=%D9%A5", values{}, `The query parameter "limit" takes a whole number from 1 to 50, not "٥".`},
		{"a date for a time", "from=2026-03-04", values{}, `The query parameter "from" takes a time such as 2026-03-04T12:00:00Z, not "2026-03-04".`},
		{"an empty time", "from=", values{}, `The query parameter "from" takes a time such as 2026-03-04T12:00:00Z, not "".`},
		{"the time that stands for none", "from=0001-01-01T00:00:00Z", values{}, `The query parameter "from" takes a time such as 2026-03-04T12:00:00Z, not "0001-01-01T00:00:00Z".`},
		{"a plus that became a space", "from=2026-03-04T13:00:00+01:00", values{}, `The query parameter "from" takes a time such as 2026-03-04T12:00:00Z, not "2026-03-04T13:00:00 01:00".`},

		{"an unknown parameter", "x=1", values{}, `The query parameter "x" is not known here. ` + known},
		{"a name in another case", "Limit=1", values{}, `The query parameter "Limit" is not known here. ` + known},
		{"no name", "=1", values{}, `The query parameter "" is not known here. ` + known},
		{"unknown ones: the first by name", "z=1&y=1", values{}, `The query parameter "y" is not known here. ` + known},
		{"a long unknown name", strings.Repeat("x", 100) + "=1", values{}, `The query parameter "` + strings.Repeat("x", 80) + `…" is not known here. ` + known},
		{"a parameter twice", "limit=1&limit=2", values{}, `The query parameter "limit" stands twice.`},
		{"a parameter twice, with one value", "key=a&key=a", values{}, `The query parameter "key" stands twice.`},
		{"the first fault counts", "x=1&limit=0", values{}, `The query parameter "x" is not known here. ` + known},
		{"a value that is not UTF-8", "key=%ff", values{}, `The query parameter "key" is not UTF-8.`},
		{"half an escape", "key=%2", values{}, "The query is not of the form name=value&name=value, with %20 for a space, and so on."},
		{"a semicolon", "key=a;limit=1", values{}, "The query is not of the form name=value&name=value, with %20 for a space, and so on."},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("GET", "/x", nil)
			r.URL.RawQuery = row.query
			q := api.Query(r, "key", "limit", "from")
			got := values{q.Text("key"), q.Int("limit", 10, 1, 50), q.Time("from")}
			if row.detail == "" {
				if q.Err() != nil || got.key != row.want.key || got.limit != row.want.limit || !got.from.Equal(row.want.from) {
					t.Errorf("%+v, %v", got, q.Err())
				}
				return
			}
			if p := api.ProblemOf(q.Err(), ""); q.Err() == nil || p.Status != 400 || p.Error != "Invalid request" || p.Detail != row.detail {
				t.Errorf("%d %q\n%q, want\n%q", p.Status, p.Error, p.Detail, row.detail)
			}
		})
	}
}
