package api

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Parameters are what a GET says behind its "?". The values are read one by one,
// and then Err is asked whether they may be used.
type Parameters struct {
	values url.Values
	err    error
}

// Query reads r's query, in which no parameter but the known ones may stand, and
// each of them once.
func Query(r *http.Request, known ...string) *Parameters {
	values, err := url.ParseQuery(r.URL.RawQuery)
	p := &Parameters{values: values}
	if err != nil {
		p.fail("The query is not of the form name=value&name=value, with %%20 for a space, and so on.")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !slices.Contains(known, name):
			p.fail("The query parameter %s is not known here. Known: \"%s\".", shortened(name), strings.Join(known, `", "`))
		case len(values[name]) > 1:
			p.fail("The query parameter %q stands twice.", name)
		case !utf8.ValidString(values.Get(name)):
			p.fail("The query parameter %q is not UTF-8.", name)
		}
	}
	return p
}

// Text is the parameter of that name, "" if there is none.
func (p *Parameters) Text(name string) string { return p.values.Get(name) }

// Int is a whole number from low to high, in decimal; fallback if it isn't given.
func (p *Parameters) Int(name string, fallback, low, high int) int {
	if !p.values.Has(name) {
		return fallback
	}
	text := p.values.Get(name)
	n, _ := strconv.Atoi(text) // what it doesn't take, it doesn't give back either
	if n < low || n > high || strconv.Itoa(n) != text {
		p.fail("The query parameter %q takes a whole number from %d to %d, not %s.", name, low, high, shortened(text))
	}
	return n
}

// Time is a time as RFC 3339 has it; the zero time if it isn't given.
func (p *Parameters) Time(name string) time.Time {
	if !p.values.Has(name) {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, p.values.Get(name))
	if err != nil || t.IsZero() { // which stands for none
		p.fail("The query parameter %q takes a time such as 2026-03-04T12:00:00Z, not %s.", name, shortened(p.values.Get(name)))
	}
	return t
}

// Err is the first fault that there was: an *Error that names the parameter and
// what it takes.
func (p *Parameters) Err() error { return p.err }

func (p *Parameters) fail(format string, args ...any) {
	if p.err == nil {
		p.err = Fail(InvalidRequest, format, args...)
	}
}
