package api

import (
	"net/http"
	"net/url"
	"strings"
)

// router finds the endpoint of a path. It is not http.ServeMux, because that
// one answers by itself where a path isn't clean, with a redirect and before
// the chain, and costs every Lambda 64 KB; the paths of the route table need
// neither its precedence nor its methods.
type router struct {
	fixed map[string]*endpoint // by path
	named []*endpoint          // paths with {names}
}

func (t *router) add(path string, e *endpoint) {
	if !strings.Contains(path, "{") {
		if t.fixed == nil {
			t.fixed = map[string]*endpoint{}
		}
		t.fixed[path] = e
		return
	}
	e.segments = strings.Split(path, "/")
	t.named = append(t.named, e)
}

// find returns the endpoint of r's path, nil if there is none, and sets r's
// path values. A path has one spelling: with another slash or a dot segment it
// is another path. An escaped slash belongs to its segment.
func (t *router) find(r *http.Request) *endpoint {
	if e := t.fixed[r.URL.Path]; e != nil {
		return e
	}
	if len(t.named) == 0 {
		return nil
	}
	path := strings.Split(r.URL.EscapedPath(), "/")
	for _, e := range t.named {
		if e.matches(path, r) {
			return e
		}
	}
	return nil
}

// matches compares segment by segment and sets r's path values. The values of a
// path that doesn't fit in the end are nobody's to read.
func (e *endpoint) matches(path []string, r *http.Request) bool {
	if len(path) != len(e.segments) {
		return false
	}
	for i, s := range e.segments {
		name, found := strings.CutPrefix(s, "{")
		if !found {
			if s != path[i] {
				return false
			}
			continue
		}
		value, err := url.PathUnescape(path[i])
		if err != nil || value == "" || value == "." || value == ".." { // "%2e%2e" is ".." (RFC 3986, section 6.2.2.2)
			return false
		}
		r.SetPathValue(strings.TrimSuffix(name, "}"), value)
	}
	return true
}
