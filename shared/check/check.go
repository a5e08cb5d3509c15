// Package check holds the conformance cases of Postern's contract: requests, and
// what must come back, as data. Our end-to-end tests run them against the local
// server and against the compiled Lambdas behind an API Gateway; a Target can be
// any URL. Whatever must be true on both sides is a row here and not a test on
// one of them.
//
// A case is one request and its answer. A Suite is the cases that hold under
// certain settings; the first suite's are the defaults, so it is the one to run
// against a server one knows nothing about. No case changes anything that lasts.
// A suite with a Key wants one of its own, which its cases leave as it is; whoever
// runs them issues it before and revokes it after.
//
// Every answer is checked for more than its row says: it has a request id and
// the security headers, a refusal has the whole problem body, and no token that
// was sent appears anywhere in it.
package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Suite is cases that hold under settings.
type Suite struct {
	Name     string
	Settings map[string]string // by name, as contract §6 has them; nil: the defaults
	Key      string            // the body of the POST /keys that makes the Target's Key; "": it needs none
	Job      string            // the body of the asynchronous POST /chat that makes the Target's Job; "": it needs none
	Cases    []Case
}

// Case is one request and what must come back.
type Case struct {
	Name   string // a sentence: "a token without its scheme is refused"
	Method string // "": GET
	Path   string // with its query; what the client sends, escapes and all
	Header http.Header
	Body   string
	Want   Want
}

// Token stands for the target's token in a Case's headers and body; Half for its
// first half, Digest for its SHA-256 in hexadecimal. Issued is the token of the
// target's key; ID is its id, and Job that of the target's job, in paths too.
const (
	Token  = "{token}"
	Half   = "{half}"
	Digest = "{digest}"
	Issued = "{issued}"
	ID     = "{id}"
	Job    = "{job}"
)

// Want is what must come back. Zero fields ask nothing.
type Want struct {
	Status int
	Error  string            // the problem's title; "": no problem
	Detail string            // a part of its detail
	Header map[string]string // exact values; Any: some value, Absent: no such header
	JSON   map[string]any    // by dotted path: "agents.0.name"; Any, or an exact value
	Body   string            // a part of the body
}

// Any and Absent are wants about a header or a member of a body.
const (
	Any    = "{any}"
	Absent = "{absent}"
)

// Target is a server to be checked.
type Target struct {
	URL    string // without a slash at its end; may have a path
	Token  string // the root token
	Key    Key    // what a suite's Key has made
	Job    string // the id of what a suite's Job has made
	Client *http.Client
}

// Key is an issued key.
type Key struct{ ID, Token string }

// Response is an answer, its body read.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Run sends c's request to t, and reports the answer and every fault in it.
func (t Target) Run(ctx context.Context, c Case) (*Response, []string) {
	response, err := t.send(ctx, c)
	if err != nil {
		return nil, []string{err.Error()}
	}
	return response, t.faults(c, response)
}

func (t Target) send(ctx context.Context, c Case) (*Response, error) {
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	fill := strings.NewReplacer(Token, t.Token, Half, t.Token[:len(t.Token)/2], Digest, digest(t.Token), Issued, t.Key.Token, ID, t.Key.ID, Job, t.Job)
	r, err := http.NewRequestWithContext(ctx, method, t.URL+fill.Replace(c.Path), strings.NewReader(fill.Replace(c.Body)))
	if err != nil {
		return nil, err
	}
	for name, values := range c.Header {
		for _, v := range values {
			r.Header[name] = append(r.Header[name], fill.Replace(v))
		}
	}
	client := *t.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	return &Response{response.StatusCode, response.Header, body}, nil
}

// faults lists what is wrong with response, a line each.
func (t Target) faults(c Case, response *Response) []string {
	f := &faults{}
	if response.Status != c.Want.Status {
		f.add("status %d, want %d", response.Status, c.Want.Status)
	}
	f.header(response.Header, "X-Request-Id", Any)
	f.header(response.Header, "X-Content-Type-Options", "nosniff")
	f.header(response.Header, "Cache-Control", "no-store")
	for _, name := range slices.Sorted(maps.Keys(c.Want.Header)) {
		f.header(response.Header, name, c.Want.Header[name])
	}
	if c.Want.Error != "" && c.Method != http.MethodHead {
		f.problem(c.Want, response)
	}
	if len(c.Want.JSON) > 0 {
		f.json(c.Want.JSON, response.Body)
	}
	if !strings.Contains(string(response.Body), c.Want.Body) {
		f.add("the body has no %q: %.300q", c.Want.Body, response.Body)
	}
	var all bytes.Buffer
	response.Header.Write(&all)
	all.Write(response.Body)
	for _, leak := range []string{t.Token, digest(t.Token), t.Key.Token, digest(t.Key.Token)} {
		if leak != "" && strings.Contains(strings.ToLower(all.String()), strings.ToLower(leak)) {
			f.add("the response has a token or its digest in it")
		}
	}
	return f.lines
}

type faults struct{ lines []string }

func (f *faults) add(format string, args ...any) {
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

func (f *faults) header(h http.Header, name, want string) {
	got, there := strings.Join(h.Values(name), ", "), len(h.Values(name)) > 0
	switch {
	case want == Absent && there:
		f.add("header %s: %q, want none", name, got)
	case want == Any && got == "":
		f.add("header %s is missing", name)
	case want != Any && want != Absent && got != want:
		f.add("header %s: %q, want %q", name, got, want)
	}
}

// problem checks the one shape that every refusal has.
func (f *faults) problem(want Want, response *Response) {
	var p struct {
		Status                        int
		Title, Error, Detail, Message string
		RequestID                     string `json:"request_id"`
	}
	dec := json.NewDecoder(bytes.NewReader(response.Body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		f.add("the body is no problem document (%v): %.300q", err, response.Body)
		return
	}
	f.header(response.Header, "Content-Type", "application/problem+json")
	if p.Error != want.Error || p.Title != want.Error {
		f.add("title %q and error %q, want %q", p.Title, p.Error, want.Error)
	}
	if p.Status != response.Status {
		f.add("the body says status %d", p.Status)
	}
	if p.Detail == "" || !strings.Contains(p.Detail, want.Detail) {
		f.add("detail %q, want %q in it", p.Detail, want.Detail)
	}
	if id := response.Header.Get("X-Request-Id"); p.RequestID != id {
		f.add("request_id %q, the header says %q", p.RequestID, id)
	}
	if refused := p.Status == http.StatusUnauthorized; refused != (p.Message == "Unauthorized: Invalid or missing X-API-KEY") {
		f.add("message %q", p.Message)
	}
}

func (f *faults) json(want map[string]any, body []byte) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		f.add("the body is not JSON: %.300q", body)
		return
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		got, there := member(v, path)
		switch w := want[path]; {
		case w == Absent:
			if there {
				f.add("%s is there: %v", path, got)
			}
		case !there:
			f.add("%s is missing in %.300q", path, body)
		case w != Any && fmt.Sprint(got) != fmt.Sprint(w):
			f.add("%s is %v, want %v", path, got, w)
		}
	}
}

// member finds what stands at a dotted path in a decoded document.
func member(v any, path string) (any, bool) {
	for key := range strings.SplitSeq(path, ".") {
		switch node := v.(type) {
		case map[string]any:
			next, there := node[key]
			if !there {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(node) {
				return nil, false
			}
			v = node[i]
		default:
			return nil, false
		}
	}
	return v, true
}
